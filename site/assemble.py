"""The sources of the site, gathered from where they lie in the repository: docs, results, cases, cards, the table of commands, and one
page for each module of the package.

    python site/assemble.py build/site-source

What a page links to and is no page itself (a table, a case file) comes along as a file, so that the site is whole without the
repository. A link that leads nowhere is an error. Pages of `make figures` come along where they have been made.
"""

from __future__ import annotations

import codecs
import html
import os
import re
import shutil
import sys
from pathlib import Path

import yaml

from biology.__main__ import CONTENTS

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?\[[^\]\n]*\]\()([^)\s]+)(\))")
HREF = re.compile(r'(<a\b[^>]*\shref=")(?!#|[a-z]+:)([^"#]+)((?:#[^"]*)?")')
CODE = re.compile(r"^```.*?^```|`(?:[^`\n]|\n(?!\n))+`", flags=re.MULTILINE | re.DOTALL)
ORDER = {
    "Tutorials": "tutorials",
    "How to": "how_to",
    "Reference": "reference",
    "Explanation": "explanation",
    "Results": "results",
    "API": "api",
}
"""The tabs of the site, and the folders that they show."""
FIRST = {
    "tutorials": ["read_a_verdict", "extend_a_case", "plant_a_mechanism", "own_model", "other_viewers"],
    "how_to": [
        "trace_and_steer",
        "attention",
        "check_a_claim",
        "add_a_prompt",
        "add_a_case",
        "add_a_model",
        "models",
        "grow",
        "clusters",
    ],
    "reference": [
        "commands",
        "case_files",
        "not_asked",
        "glossary",
        "artifact",
        "checklist",
        "moved_verdicts",
        "models",
        "costs",
    ],
    "explanation": ["method", "statistics", "planting", "faults", "neurons"],
    "results": ["verdicts", "pages", "figures", "cases"],
}
"""Pages that come first in their folder, in this order; the others follow by name."""


def places() -> dict[Path, str]:
    """Where each text of the repository stands in the site."""
    found = {
        path: str(path.relative_to(ROOT / "docs"))
        for path in ROOT.glob("docs/**/*.md")
        if "own_model" not in path.parts
    }
    found |= {
        ROOT / "README.md": "index.md",
        ROOT / "CONTRIBUTING.md": "how_to/contribute.md",
        ROOT / "GLOSSARY.md": "reference/glossary.md",
        ROOT / "CHANGELOG.md": "reference/changes.md",
        ROOT / "reports/README.md": "results/verdicts.md",
        ROOT / "benchmarks/README.md": "reference/benchmark.md",
        ROOT / "data/words/README.md": "reference/cards/words.md",
    }
    found |= {path: f"results/cases/{path.parent.name}.md" for path in ROOT.glob("experiments/[!_]*/README.md")}
    found |= {path: f"reference/cards/{path.parent.name}.md" for path in ROOT.glob("data/models/*/README.md")}
    found |= {path: f"reference/cards/{path.parent.name}.md" for path in ROOT.glob("reports/*/README.md")}  # downloaded
    return dict(sorted(found.items()))


def place_of(target: Path, pages: dict[Path, str], out: Path) -> str | None:
    """Where a file of the repository stands in the site; one that is no page is copied. None if there is no such file."""
    if target.is_dir() and (target / "README.md") in pages:
        target /= "README.md"
    if target in pages:
        return pages[target]
    if not (target.is_file() and target.is_relative_to(ROOT)):
        return None
    there = f"files/{target.relative_to(ROOT)}"
    there = there if target.suffix not in (".py", ".ipynb", ".yaml", ".yml", ".sh", ".lock") else f"{there}.txt"
    (out / there).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(target, out / there)
    return there


def with_links(text: str, source: Path, pages: dict[Path, str], out: Path) -> str:
    """A text with its links as they are in the site; files that it links to are copied. Exits if one leads nowhere."""
    here, kept = pages[source], []

    def put_aside(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\0{len(kept) - 1}\0"

    def moved(found: re.Match[str]) -> str:
        place, _, anchor = found[2].partition("#")
        if not place or "://" in place or place.startswith("mailto:"):
            return found[0]
        there = place_of((source.parent / place).resolve(), pages, out)
        if there is None:
            sys.exit(f"error: {source.relative_to(ROOT)}: {found[2]} leads nowhere")
        link = os.path.relpath(there, Path(here).parent or ".")
        return f"{found[1]}{link}{f'#{anchor}' if anchor else ''}{found[3]}"

    aside = CODE.sub(put_aside, text)
    return re.sub(r"\0(\d+)\0", lambda found: kept[int(found[1])], LINK.sub(moved, aside))


def with_lists(text: str) -> str:
    """A text in which every list follows an empty line, as this Markdown wants it and the hosts' does not."""
    lines: list[str] = []
    code = listed = False  # within a block of code; within a block of text in which a list has begun
    for line in text.splitlines():
        fence = line.startswith("```")
        code ^= fence
        item = not code and re.match(r"([-*]|\d+\.) ", line) is not None
        if item and not listed and lines and lines[-1].strip():
            lines.append("")
        listed = (listed or item) and not fence and bool(line.strip()) and not line.startswith("#")
        lines.append(line)
    return "\n".join(lines) + "\n"


# What is made ---------------------------------------------------------------------------------------------------------


def commands() -> str:
    """The table of contents with every option."""
    lines = ["# Commands", "", "`biology <command> --help` says the same in a terminal.", ""]
    for section, listed in CONTENTS.items():
        lines += [f"## {section}".replace("<", "&lt;"), ""]
        for name, (function, options) in listed.items():
            lines += [f"### {name}", "", f"{(function.__doc__ or '').splitlines()[0]}.", ""]
            rows = [(flag, settings.get("metavar", ""), settings) for flag, settings in options.items()]
            if rows:
                lines += ["| option | | |", "|---|---|---|"]
            for flag, metavar, settings in rows:
                told = (
                    str(settings.get("help", "")) % {"default": settings.get("default")} if settings.get("help") else ""
                )
                choices = ", ".join(f"`{one}`" for one in settings.get("choices") or ())
                said = "; ".join(filter(None, [told, choices, "needed" if settings.get("required") else ""]))
                said = said.replace("|", "&#124;").replace("<", "&lt;")
                lines.append(f"| `{flag}` | {f'`{metavar}`' if metavar else ''} | {said} |")
            lines.append("")
    return "\n".join(lines)


def modules() -> dict[str, str]:
    """A page for each module of the package, found by walking it; by their places in the site."""
    package = ROOT / "src/biology"
    made, rows = {}, []
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        if path.stem == "__main__":
            continue
        place = f"{name.removeprefix('biology').removeprefix('.').replace('.', '/') or 'biology'}"
        place += "/index.md" if path.name == "__init__.py" and name != "biology" else ".md"
        made[f"api/{place}"] = f"# {name}\n\n::: {name}\n"
        said = re.match(r'"""(.*?)(?:\n\n|""")', path.read_text(encoding="utf-8"), flags=re.DOTALL)
        rows.append(f"| [{name}]({place}) | {' '.join(said[1].split()).replace('|', '&#124;') if said else ''} |")
    head = [
        "# API",
        "",
        "What a notebook needs is `import biology as bio`: [biology.api](api.md). Everything else is here too.",
        "",
    ]
    made["api/index.md"] = "\n".join([*head, "| module | what it is |", "|---|---|", *rows]) + "\n"
    return made


def report_page(path: Path, written: set[Path], pages: dict[Path, str], out: Path) -> bytes:
    """A page of `make figures` with its links as they are in the site, where it keeps its place among the other pages and their
    tables (`written`). Exits if a link leads nowhere."""
    data = path.read_bytes()
    coding = "utf-16" if data.startswith(codecs.BOM_UTF16_LE) else "utf-8"

    def moved(found: re.Match[str]) -> str:
        target = (path.parent / html.unescape(found[2])).resolve()
        if target in written:
            return found[0]
        there = place_of(target, pages, out)
        if there is None:
            sys.exit(f"error: {path.relative_to(ROOT)}: {found[2]} leads nowhere; if it was moved: make figures")
        there = os.path.relpath(re.sub(r"\.md$", ".html", there), path.parent.relative_to(ROOT))
        return f"{found[1]}{there}{found[3]}"

    text = data.decode(coding)
    made = HREF.sub(moved, text)
    return data if made == text else made.encode(coding)


def report_pages(out: Path, texts: dict[Path, str]) -> str:
    """The page that leads to the pages of `make figures`, which are copied; it says so where there are none. `texts`: where the
    texts of the repository stand in the site."""
    pages = sorted(ROOT.glob("reports/*/*.html"))
    lines = [
        "# Pages",
        "",
        "Every verdict with its evidence, the feature atlas and the steering board: single files that open from disk.",
        "",
    ]
    if not pages:
        return "\n".join(
            [*lines, "They are made by `make figures`, and have not been made where this site was built.", ""]
        )
    written = {*ROOT.glob("reports/*.html"), *pages, *ROOT.glob("reports/*/*_prompts.csv")}
    for path in sorted(written):
        there = out / path.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(report_page(path, written, texts, out) if path.suffix == ".html" else path.read_bytes())
    lines += ["[The board of all verdicts](../reports/index.html)", "", "| model | page |", "|---|---|"]
    lines += [
        f"| {path.parent.name} | [{path.stem.replace('_', ' ')}](../{path.relative_to(ROOT)}) |" for path in pages
    ]
    return "\n".join([*lines, ""])


def figures(out: Path) -> str:
    """All figures that are there, by model and case."""
    lines, last = ["# Figures", ""], None
    for path in sorted(ROOT.glob("figures/**/*.svg")):
        where = path.parent.relative_to(ROOT / "figures")
        there = f"files/{path.relative_to(ROOT)}"
        (out / there).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / there)
        if where != last:
            lines += [f"## {' · '.join(where.parts) or 'what verdicts are worth'}".replace("_", " "), ""]
            last = where
        lines += [f"![{path.stem.replace('_', ' ')}](../{there}){{ loading=lazy }}", ""]
    return "\n".join(lines)


# The site -------------------------------------------------------------------------------------------------------------


def title(out: Path, place: str) -> str:
    """The first heading of a page."""
    found = re.search(r"^# (.+)$", (out / place).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.sub(r"[`*]", "", found[1]) if found else Path(place).stem


def nav(out: Path, folder: str) -> list:
    """The pages of a folder with their titles, and its folders below."""
    first = FIRST.get(folder, [])
    found = sorted(
        (out / folder).iterdir(),
        key=lambda path: (
            path.stem != "index",
            first.index(path.stem) if path.stem in first else len(first),
            path.name,
        ),
    )
    listed = []
    for path in found:
        place = str(path.relative_to(out))
        if path.is_dir():
            listed.append({path.name.replace("_", " ").capitalize(): nav(out, place)})
        elif path.name == "index.md":
            listed.append(place)
        elif path.suffix == ".md":
            listed.append({title(out, place): place})
    return listed


def main(into: Path) -> None:
    shutil.rmtree(into, ignore_errors=True)
    out, pages = into / "pages", places()
    out.mkdir(parents=True)
    index = ROOT / "docs/index.md"
    texts = {
        place: (path, path.read_text(encoding="utf-8")) for path, place in pages.items() if path != ROOT / "README.md"
    }
    assert index in pages
    for place, (path, text) in texts.items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text(with_lists(with_links(text, path, pages, out)), encoding="utf-8")
    made = modules() | {"reference/commands.md": commands()}
    made |= {"results/pages.md": report_pages(out, pages), "results/figures.md": figures(out)}
    for place, text in made.items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text(text, encoding="utf-8")
    for name in ("site.css", "site.js", "iframe-worker.js"):
        shutil.copyfile(ROOT / "site" / name, out / name)
    settings = yaml.safe_load((ROOT / "site/mkdocs.yml").read_text(encoding="utf-8"))
    settings["nav"] = [{"Home": "index.md"}, *({name: nav(out, folder)} for name, folder in ORDER.items())]
    python = next(one for one in settings["plugins"] if isinstance(one, dict))["mkdocstrings"]["handlers"]["python"]
    python["paths"] = [str(ROOT / "src")]
    (into / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
