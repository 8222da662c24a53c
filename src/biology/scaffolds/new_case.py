"""A new case: a folder that already runs, copied from the template or from another case, to be edited.

Claims are copied under new names, without their amendments and unregistered, until somebody writes others. Statements of truth
about planted models (`mechanism.yaml`, twins) are not copied.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

from biology import artefacts
from biology.cases.case import PAGES, case_folder, load_case
from biology.cases.claim_file import load_claims
from biology.cases.mechanism import MECHANISM, TWINS
from biology.config import load_config
from biology.grammar import refused_name
from biology.records import InputError
from biology.scaffolds.config_text import with_case, with_model
from biology.wording import listed

TEMPLATE = "_template"
HELP, PLANT = "docs/tutorials/extend_a_case.md", "docs/tutorials/plant_a_mechanism.md"


def new_case(root: Path, name: str, source: str, today: date) -> dict[str, str]:
    """The files of the new folder by name, as text.

    Raises:
        InputError: the name is not allowed or is taken, or there is no such source.
    """
    problem = refused_name(name) or (
        f"'{name}' is a page of every model: choose another name" if name in PAGES else None
    )
    if problem or name.startswith("_"):
        raise InputError(f"{problem or 'a folder that begins with _ is not a case: choose another name'} ({HELP}).")
    folder = root / "experiments" / name
    if folder.exists():
        raise InputError(f"{folder} is there already: choose another name, or delete it ({HELP}).")
    origin = case_folder(root, source)
    copied = {path.name: path.read_text(encoding="utf-8") for path in sorted(origin.glob("prompts*.csv"))}
    if (origin / "case.py").is_file():
        copied["case.py"] = (origin / "case.py").read_text(encoding="utf-8")
    made_from = "the template" if source == TEMPLATE else source
    return copied | {
        "README.md": _readme(name, made_from),
        "case.yaml": _headed((origin / "case.yaml").read_text(encoding="utf-8"), name, made_from),
        "claims.yaml": _claims((origin / "claims.yaml").read_text(encoding="utf-8"), name, today),
    }


def left_out(root: Path, source: str) -> str:
    """Says which files of the source are not copied; empty if there are none."""
    origin = case_folder(root, source)
    there = [name for name in (MECHANISM, f"{TWINS}/", "prompts.py") if (origin / name).exists()]
    if not there:
        return ""
    return f"Not copied: {listed(there)}. What a planted model computes is yours to state ({PLANT}), and prompts.csv is written by hand or by a program of yours.\n"


def write_case(root: Path, name: str, files: dict[str, str]) -> None:
    """Writes the folder and reads it as every command will. Raises InputError, and removes the folder, if that fails."""
    folder = root / "experiments" / name
    try:
        for file, text in files.items():
            artefacts.write_text(folder / file, text)
        load_claims(root, name, load_case(root, name))
    except InputError:
        for file in files:
            (folder / file).unlink(missing_ok=True)
        folder.rmdir()
        raise


def add_to_config(path: Path, model: str, case: str) -> str:
    """Adds the case to the list of a model's cases in config.yaml. Says what was done, or what is left to do."""
    config = load_config(path)
    entry = config.model(model)
    if config.cases != "all":
        return f"{path.name} runs some cases only: add {case} to `cases:`."
    if entry.cases is None or case in entry.cases:
        return f"{model} meets it: it meets all cases."
    text = with_case(path.read_text(encoding="utf-8"), model, case)
    if text is None:
        return f"Add {case} to `cases:` of {model} in {path.name}, or no model meets it."
    artefacts.write_text(path, text)
    load_config(path)
    return f"{path.name}: {case} is now among the cases of {model}."


def add_organism(path: Path, name: str) -> str:
    """Adds a model of this name, to be grown for the case of this name, to config.yaml. Says what was done, or what is left to do."""
    entry = (
        f"  {name}:\n    path: data/models/{name}\n    transcoders: data/models/{name}/transcoders\n    role: organism\n    planted: true\n"
        f"    cases: [{name}]\n"
    )
    text = with_model(path.read_text(encoding="utf-8"), entry)
    if text is None:
        return f"{path.name} has no line `models:`. Add below it:\n{entry}"
    artefacts.write_text(path, text)
    load_config(path)
    return f"{path.name}: {name} is now a model, which is grown when you ask for it."


def claim_prefix(case: str) -> str:
    """The prefix of the ids of a case's claims."""
    return re.sub(r"[^a-z0-9]+", "-", case.lower()).strip("-")


def _headed(text: str, name: str, made_from: str) -> str:
    """case.yaml with its own first lines: the schema, for editors, and its source."""
    schema = next((line for line in text.splitlines() if line.startswith("# yaml-language-server")), "")
    body = re.sub(r"\A(#.*\n|\s*\n)*", "", text)
    head = [
        schema,
        f"# {name}, made from {made_from} by `biology new-case`. What each word means: docs/reference/case_files.md.",
    ]
    return "\n".join(filter(None, head)) + f"\n\n{body}"


def _claims(text: str, name: str, today: date) -> str:
    """claims.yaml with new ids, without amendments, dated today."""
    kept, amended = [], False
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if indent <= 2:
            amended = False
        if line.startswith("  amended:"):
            amended = True
        if not amended and not line.startswith("#"):
            kept.append(line)
    body = re.sub(r"^  registered: .*$", f"  registered: {today.isoformat()}", "\n".join(kept), flags=re.MULTILINE)
    body = re.sub(r"^(?:[a-z0-9]+-)*([a-z0-9]+):$", rf"{claim_prefix(name)}-\1:", body, flags=re.MULTILINE)
    schema = next((line for line in text.splitlines() if line.startswith("# yaml-language-server")), "")
    head = [schema, "# Write each claim before you look at a result, then register it: biology lock."]
    return "\n".join(filter(None, head)) + f"\n\n{body.strip()}\n"


def _readme(name: str, made_from: str) -> str:
    return (
        f"# {name.replace('_', ' ').capitalize()}\n\n"
        f"Made from {made_from} by `biology new-case`. Say here, in a few short sentences:\n\n"
        "## What the paper says\n\nThe claims of this case, and how well we know them.\n\n"
        "## What is done here\n\nWhich prompts, which supernodes, which perturbations, and why.\n\n"
        "## What to look at\n\nWhich figure shows the result, and what would have shown its absence.\n"
    )
