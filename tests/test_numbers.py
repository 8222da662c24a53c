"""No number in a text is typed by hand: each is written between marks from a committed table, and the texts are up to date."""

import re
from pathlib import Path

import pandas as pd
import pytest

from biology.config import load_config
from biology.records import InputError
from biology.report.numbers import MARK, _misses, numbers, parameters, texts, with_numbers
from biology.report.scoreboard import BEGIN, END, full_scoreboard, with_misses, with_scoreboard

ROOT = Path(__file__).parents[1]
GENERATED = ("case_files.md", "costs.md")
"""Written whole from types or tables, and compared with them by a test of its own."""
TEXTS = [path for path in texts(ROOT) if path.name not in GENERATED and path.parent.name != "cards"]
NAMES = (
    "Claude 3.5 Haiku", "Python 3.11", "(or 3.12, 3.13)", "(or 3.12)", "or 3.12", "et al., 2025", "Qwen3", "x86-64", "GPT-2", "SmolLM2", "Gemma 2 or 3", "Gemma 2",
    "Gemma 3", "Gemma Scope 2", "L0", "S3", "float32", "stories260K", "UTF-8", "SHA-256",
)  # fmt: skip
"""Names that hold digits."""


@pytest.fixture(scope="module")
def config():
    return load_config(ROOT / "config.yaml")


@pytest.fixture(scope="module")
def counted(config):
    """Every number that texts may name; read, not changed."""
    return numbers(ROOT, config)


def prose(text: str) -> str:
    """What is left of a text without marked numbers, code, addresses and names."""
    if BEGIN in text:
        text = text.partition(BEGIN)[0] + text.partition(END)[2]
    text = MARK.sub(" ", text)
    text = re.sub(r"^## [\d.]+$", " ", text, flags=re.MULTILINE)  # versions, in CHANGELOG.md
    text = re.sub(r"<!-- ([a-z ]+) -->.*?<!-- /\1 -->", " ", text, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```", " ", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\d+\. ", " ", text, flags=re.MULTILINE)  # ordered lists
    text = re.sub(r"`[^`]*`", " ", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    text = " ".join(text.split())
    for name in NAMES:
        text = text.replace(name, " ")
    return text


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_number_is_typed(path):
    assert re.findall(r"\S*\d\S*", prose(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_are_what_the_tables_say(path, config, counted):
    text = path.read_text(encoding="utf-8")
    made = with_misses(with_numbers(text, counted, path), ROOT)
    assert (with_scoreboard(made, ROOT, config) if path == ROOT / "README.md" else made) == text, (
        "run `biology scoreboard`"
    )


def test_the_full_scoreboard_is_what_the_tables_say(config):
    assert (ROOT / "reports/README.md").read_text(encoding="utf-8") == full_scoreboard(ROOT, config)


def test_no_line_of_a_paragraph_begins_with_a_comment():
    """Markdown takes `<!--` at the start of a line for a block of HTML: the paragraph ends, and what follows is not read."""
    folders = ("docs", "data", "experiments", "reports", "benchmarks", "tests", "src")
    for path in [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.md"))]:
        before = ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            of_its_own = re.fullmatch(r"<!-- /?[a-z ]+ -->", line) and (not before or before.startswith(("|", "```")))
            assert of_its_own or not re.match(r"[ \t]*(([-*+>]|\d+[.)])[ \t]+)*<!--", line), f"{path}: line {number}"
            before = line


def test_numbers_are_written_where_they_are_named():
    made = with_numbers(
        "a <!--n:claims-->old<!--/n--> b <!--n:x.y-->\n<!--/n-->", {"claims": "1", "x.y": "2"}, Path("t")
    )
    assert made == "a <!--n:claims-->1<!--/n--> b <!--n:x.y-->2<!--/n-->"
    with pytest.raises(InputError, match="t: unknown number 'nothing'. Known: claims"):
        with_numbers("a <!--n:nothing--><!--/n-->", {"claims": "1"}, Path("t"))
    for begun in ("", "  ", "- ", "> 1. "):
        with pytest.raises(InputError, match="t: line 2 begins with the mark of a number"):
            with_numbers(f"There are\n{begun}<!--n:claims-->0<!--/n--> claims.", {"claims": "1"}, Path("t"))


def test_counts_are_counted(counted):
    kinds = ("replicated", "not_replicated", "inconclusive", "untestable")
    family = ("elegans", "elegans-languages")
    assert all(sum(int(counted[f"{one}.{kind}"]) for kind in kinds) == int(counted[f"{one}.claims"]) for one in family)
    judged = [set(pd.read_csv(ROOT / "reports" / one / "verdicts.csv")["claim"]) for one in family]
    assert [len(claims) for claims in judged] == [int(counted[f"{one}.claims"]) for one in family]
    organisms = [name for name, entry in load_config(ROOT / "config.yaml").models.items() if entry.role == "organism"]
    judged += [set(pd.read_csv(ROOT / "reports" / one / "verdicts.csv")["claim"]) for one in organisms]
    written = "a claim has no verdict yet, or a verdict no claim: `make figures`, then `biology scoreboard`"
    assert len(set.union(*judged)) == int(counted["claims"]), written
    assert int(counted["elegans.parameters"].replace(",", "")) == parameters(
        ROOT / "data/models/elegans/model.safetensors"
    )


def test_parameters_are_those_of_the_tensors(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "m.safetensors", metadata={"x": "y"})
    assert parameters(tmp_path / "m.safetensors") == 17


def test_misses_are_listed_between_their_marks_and_counted(tmp_path):
    columns = [
        "claim",
        "model",
        "part",
        "lacks",
        "supernode",
        "fault",
        "certain",
        "mlp",
        "features",
        "members",
        "others",
    ]
    rows = [
        ["a-1", "m", "one|part", "effect and control", "harm_there", "spread", 1.0, 1, 0.97, 0.41, 0.62],
        ["a-1", "m", "one|part", "effect and control", "other", "none", 0.0, 1, 1, 0.99, 0],
        ["a-2", "m", "a part", "control", "", "not measured", *[""] * 5],
        ["a-1", "n", "a part", "prompts", "", "not measured", *[""] * 5],
    ]
    (tmp_path / "reports").mkdir()
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "reports/misses.csv", index=False)
    text = "before\n\n<!-- misses -->\nold\n<!-- /misses -->\nafter"
    made = with_misses(text, tmp_path)
    lines = made.splitlines()
    assert lines[5:7] == [
        "| a-1 | m | one\\|part | effect and control | harm there | **spread** | 100% | 97.0% | 41% | 62% |",
        "| a-1 | m | one\\|part | effect and control | other | **none** (open) | 100% | 100% | 99.0% | 0% |",
    ]
    assert "Not measured are m: a-2 (control); n: a-1 (prompts)." in made and "old" not in made and lines[-1] == "after"
    assert with_misses(made, tmp_path) == made and with_misses("no marks", tmp_path) == "no marks"
    counts = {"claims": 3, "measured": 1, "spread": 1, "none": 1, "not_measured": 2}
    counts |= dict.fromkeys(("model", "search", "attention", "dictionary", "rule"), 0)
    counts |= {"lacks_effect": 1, "lacks_control": 2, "lacks_prompts": 1, "lacks_sameness": 0}
    assert _misses(tmp_path / "reports/misses.csv") == {f"misses.{name}": n for name, n in counts.items()}
    assert with_misses(text, tmp_path / "elsewhere") == text and _misses(tmp_path / "elsewhere") == {}
