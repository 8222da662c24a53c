"""The words that may be used in the files of a case, as a page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args, get_origin

from biology.arms import CONTROLS
from biology.cases.claim_file import CONFIDENCE
from biology.cases.experiments import KINDS
from biology.cases.figure_names import FIGURES
from biology.cases.found_sites import ENOUGH, LEAST
from biology.cases.measures import FORMS, WRITING, Form, Outcome
from biology.cases.mechanism import Absent, Answer, Mechanism, Truth, Variable
from biology.cases.positions import FORMS as POSITIONS
from biology.cases.positions import FOUND
from biology.cases.rules import SupernodeRule
from biology.records import Strict
from biology.wording import listed

PAGE = "docs/reference/case_files.md"
"""Path of `words_page` in a checkout."""


def words_page() -> str:
    """The words allowed in case.yaml, claims.yaml and mechanism.yaml, as a page of Markdown (`docs/reference/case_files.md`)."""
    lines = [
        "# The words of a case file",
        "",
        "`experiments/<case>/case.yaml` says how things are measured, `claims.yaml` what the paper claims and what would count. This",
        "page is what `biology explain` prints, and `biology schema` writes it. `biology explain CASE` tells a case in English.",
        "Whatever a file names must be there: a word that nothing answers to is refused when the file is read, with the nearest",
        "right one, and an editor that knows JSON Schema completes and underlines as you type (the first line of each file).",
        "",
        "## Kinds of experiment",
        "",
        "`only` restricts the scored prompts to levels of factors; what else a kind needs or knows is in the schema.",
        "",
    ]
    lines += [f"- `{kind.kind_name()}`: {_first(kind.__doc__)}" for kind in KINDS]
    lines += [
        "",
        "## Outcomes",
        "",
        "What stands behind a colon names something of the case. Claims are held to these units.",
        "",
    ]
    groups: dict[tuple[str, ...], list[Form]] = {}
    for form in FORMS.values():
        groups.setdefault((*form.kinds, *(["with a line"] if form.line else [])), []).append(form)
    for kinds, forms in groups.items():
        lines += [f"Asked by {_asking(kinds)}:", ""]
        lines += [f"- `{form.written}` ({form.unit}): {_said(form)}{_beside(form)}." for form in forms]
        lines += [""]
    lines += [
        "## Positions",
        "",
        "Where in a prompt (`at`, `control_position`, `sites`). A position must be in every prompt that it is asked of. With `chat: true` a prompt",
        "is a user's message in the model's own template: words are searched in the message, and numbers count all tokens of the template.",
        "",
    ]
    lines += [f"- `{written}`: {says}" for written, says in POSITIONS.values()]
    lines += [
        "",
        f"A supernode may also say `at: {FOUND}`: position and layers are then found on each model, before any feature is looked at. `among`",
        "lists the positions that are tried, and `given` the columns whose levels, together with that of `factor`, settle the answer",
        f'(`factor: place, at: {FOUND}, among: [last, "factor:city"], given: [relation]`). On development prompts, what the MLPs of the layers up',
        "to one wrote at a position is exchanged for the mean of prompts with another level, which differ in `across`. The position",
        f"is the one where the answer of that level is said most often. The last layer is the lowest up to which, or the highest from which on, an exchange reaches {ENOUGH:.0%}",
        f"of this, whichever is later. Below {LEAST:.0%} nothing is found, a warning says so, and the first position of `among` is taken with all layers.",
        "`biology decompose` takes the site apart on held-out prompts, to say [which part is at fault](../explanation/faults.md) where a claim misses.",
        "",
        "## Keys of a supernode's rule",
        "",
        "Features that meet all conditions are its members.",
        "",
        *_keys(SupernodeRule),
        "",
        "## Controls",
        "",
        "What is measured beside the effect. A claim says `none` where it has no control.",
        "",
    ]
    for name, arm in CONTROLS.items():
        lines += [f"- `{name}` ({arm.words}): {arm.says}. {_listed_by(arm.kinds)}"]
        lines += [f"    - in `{where}`: {what}" for where, what in arm.where.items()]
    lines += [
        "",
        "## Figures",
        "",
        "A name, or a name and its subject behind a hyphen; further ones are those of the case's own `case.py`.",
        "",
    ]
    lines += [f"- `{name}`" + (f", `{name}-<{subject}>`" if subject else "") for name, subject in FIGURES.items()]
    lines += [
        "",
        "## How well a sentence of the paper is known",
        "",
        *(f"- `{word}`: {meaning}" for word, meaning in CONFIDENCE.items()),
        "",
        "## The words of a mechanism",
        "",
        "`mechanism.yaml` says what a planted model computes ([how to plant one](../tutorials/plant_a_mechanism.md)). It names columns of the prompt set",
        "and variables that come before.",
        "",
    ]
    for title, record in RECORDS.items():
        lines += [f"{title}:", "", *_keys(record), ""]
    return "\n".join(lines)


RECORDS: dict[str, type[Strict]] = {
    "The file": Mechanism, "Each of the `variables`": Variable, "`absent` of a variable": Absent, "`answer`": Answer,
    "Each entry of `truth`": Truth,
}  # fmt: skip
"""The records of mechanism.yaml, and where they stand in it."""


def _keys(record: type[Strict]) -> list[str]:
    """A line for each key of a record: what it says, the words it allows, and whether it is needed."""
    lines = []
    for name, field in record.model_fields.items():
        words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        allowed = f" One of {listed([f'`{word}`' for word in words])}." if words else ""
        needed = " Needed." if field.is_required() else ""
        lines.append(f"- `{name}`: {_first(field.description)}{allowed}{needed}")
    return lines


def _first(text: str | None) -> str:
    return " ".join((text or "").split())


def _said(form: Form) -> str:
    return (
        Outcome(form.written.replace("...", "")).meaning
        if form.about not in ("outcome", "family")
        else form.says.format(*[f"<{form.about}>"] * 2)
    )


def _asking(kinds: Sequence[str]) -> str:
    line = " with a `line`" if "with a line" in kinds else " without a `line`" if set(kinds) & set(WRITING) else ""
    return listed([f"`{kind}`" for kind in kinds if kind != "with a line"]) + line


def _beside(form: Form) -> str:
    told = [f"; has the control `{arm}` by itself" for arm in form.beside]
    told += [f"; controls {listed([f'`{arm}`' for arm in form.controls])}"] if form.controls is not None else []
    return "".join(told)


def _listed_by(kinds: Sequence[str]) -> str:
    return f"Listed by {listed([f'`{kind}`' for kind in kinds])}." if kinds else "Comes by itself."
