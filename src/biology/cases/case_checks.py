"""Checks that the parts of a case fit together: every name refers to something, and everything asked for can be
measured.

Without these checks a misspelt name would select no prompt, or no feature, and end as a verdict.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Sequence

from biology.cases import figure_names
from biology.cases.case_file import EXTENDED, CaseFile
from biology.cases.experiments import (
    LOOKING_AT_PLOTS,
    Attention,
    Census,
    Computed,
    Contrast,
    Crossover,
    Graph,
    Reuse,
    Scale,
    Separation,
    Sharing,
    Signs,
    Structure,
    Wiring,
)
from biology.cases.facts import Facts, Row, meets
from biology.cases.measurement import Line, Measurement
from biology.cases.measures import Outcome
from biology.cases.perturbations import Edit, Exchange, Inhibit, Perturbation
from biology.cases.positions import Position
from biology.cases.rules import SupernodeRule
from biology.grammar import unknown

RESERVED = ("answer", "other", "error", "bias")
"""Names of nodes in the table `edges`; no supernode may have them."""
CELL = ("concept", "relation", "language", "scale", "language_fold")
"""Factors that an experiment of kind `sharing` reads."""


def check_case(file: CaseFile, facts: Facts) -> None:
    """Raises InputError for the first thing that does not fit, with file, place and the nearest right word."""
    facts.spelt()
    facts.links()
    facts.questions()
    facts.held_out()
    for corpus, columns in file.extended.items():
        facts.known("extended", "corpus", corpus, EXTENDED)
        for column, levels in columns.items():
            facts.distinct(f"extended.{corpus}.{column}", levels)
    if file.operands is not None:
        for key in ("first", "second"):
            facts.factor(f"operands.{key}", getattr(file.operands, key))
        for factor, level in file.operands.only.items():
            facts.level("operands.only", factor, level)
    for name, rule in file.supernodes.items():
        _check_rule(f"supernodes.{name}", name, rule, file, facts)
    for name, stream in file.streams.items():
        where = f"streams.{name}"
        facts.factor(f"{where}.factor", stream.factor)
        for factor in (*stream.across, *filter(None, [stream.expected])):
            facts.factor(where, factor)
        facts.only(f"{where}.only", stream.only)
        for column in (stream.donor, f"wrong_{stream.donor}"):
            facts.donor(f"{where}.donor", column, [])
    for name, experiment in file.experiments.items():
        _Check(name, file, facts).run(experiment)
    facts.measured(
        [experiment.only for experiment in file.experiments.values() if not isinstance(experiment, Computed)]
    )
    facts.distinct("figures", file.figures)
    facts.distinct("story.arrows", file.story.arrows if file.story else ())
    own = figure_names.own_figures(facts.path.parent)
    for figure in file.figures:
        wrong = figure_names.problem(figure, own, file.prompts, file.experiments)
        if wrong:
            raise facts.refuse("figures", wrong)


def _check_rule(where: str, name: str, rule: SupernodeRule, file: CaseFile, facts: Facts) -> None:
    if name in RESERVED:
        raise facts.refuse(where, f"'{name}' already has a meaning in the tables: choose another name")
    for prompt in (*rule.active_on, *rule.silent_on):
        facts.known(where, "prompt", prompt, file.prompts)
    for at in rule.positions:
        facts.position(f"{where}.{'among' if rule.among else 'at'}", at, facts.rows)
    if rule.operands and not file.operands:
        raise facts.refuse(where, "a rule on operands needs `operands:` in case.yaml")
    if rule.operands and rule.operands.at:
        facts.position(f"{where}.operands.at", rule.operands.at, facts.rows)
    if rule.factor is not None:
        facts.factor(f"{where}.factor", rule.factor)
        if not rule.difference_share and (rule.precision, rule.recall, rule.false_positive_rate) == (0, 0, 1):
            raise facts.refuse(where, "`precision` and `recall` of 0 tell no level: every feature would be a member")
    if rule.within is not None:
        facts.factor(f"{where}.within", rule.within)
    for key in ("across", "given"):
        for factor in getattr(rule, key):
            facts.factor(f"{where}.{key}", factor)
    for word in (*rule.promotes, *rule.not_promotes):  # any text may be meant, but nearly a known one is a slip
        columns = ["answer", "answers"]
        near = [*columns, *(facts.answers if len(word.strip()) > 4 else ())]
        if word not in columns and word.strip() not in facts.answers and difflib.get_close_matches(word, near, 1, 0.8):
            key = "promotes" if word in rule.promotes else "not_promotes"
            raise facts.refuse(f"{where}.{key}", unknown("word", word, near))
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(rule.label)]
    except ValueError:
        raise facts.refuse(f"{where}.label", f"{rule.label!r} has an unmatched brace") from None
    for field in fields:
        if field is not None and field != "answer":
            facts.of_shown(f"{where}.label", field)
    try:
        rule.label.format_map({field: "" for field in fields if field})
    except ValueError as error:  # as in {place!q} or {place:d}
        raise facts.refuse(f"{where}.label", f"{rule.label!r} cannot be filled in ({error})") from None


def _same(one: Position, other: Position) -> bool:
    """Whether two positions are the same token of every prompt."""
    return one == other or {str(one), str(other)} == {"last", "-1"}


class _Check:
    """The checks of one experiment."""

    def __init__(self, name: str, file: CaseFile, facts: Facts) -> None:
        self.where, self.name, self.file, self.facts = f"experiments.{name}", name, file, facts

    def run(self, experiment: Measurement) -> None:
        facts, file = self.facts, self.file
        facts.only(f"{self.where}.only", experiment.only)
        for key in ("outcomes", "controls", "prompts", "sites", "strengths", "depths", "of", "undrawn"):
            facts.distinct(f"{self.where}.{key}", getattr(experiment, key, ()))
        for supernode in (*experiment.held, *getattr(experiment, "undrawn", ())):
            facts.known(self.where, "supernode", supernode, file.supernodes)
        for other in experiment.rests_on:
            key = "as_in" if isinstance(experiment, Edit) else "of"
            facts.known(f"{self.where}.{key}", "experiment", other, file.experiments)
        for prompt in getattr(experiment, "prompts", ()):
            facts.known(f"{self.where}.prompts", "prompt", prompt, file.prompts)
        scored = facts.scored(experiment.only)
        measured = [*scored, *(facts.shown[prompt] for prompt in getattr(experiment, "prompts", ()))]
        for outcome in experiment.outcomes:
            self._outcome(experiment, outcome, scored)
        for kind in reversed(
            type(experiment).__mro__
        ):  # what all perturbations need is checked before what a swap needs
            check = getattr(self, f"_{kind.__name__.lower()}", None)
            if check is not None:
                check(experiment, measured)
        if isinstance(experiment, LOOKING_AT_PLOTS) and file.operands is None:
            raise facts.refuse(self.where, "needs `operands:` in case.yaml")

    def _outcome(self, experiment: Measurement, outcome: Outcome, scored: list[Row]) -> None:
        """Checks the names in an outcome. Those of a comparison are checked where they are measured."""
        where, facts = f"{self.where}.outcomes", self.facts
        if isinstance(experiment, Computed):
            return
        for supernode in outcome.names("supernode"):
            facts.known(f"{where}: {outcome}", "supernode", supernode, self.file.supernodes)
        for factor in outcome.names("factor"):
            facts.factor(f"{where}: {outcome}", factor)
        if outcome.form.name.startswith("level_"):
            facts.filled(where, outcome.arguments[0], scored)
        for language in outcome.names("language"):
            facts.known(f"{where}: {outcome}", "language", language, facts.levels("language"))
        if outcome == "others_probability":
            facts.factor(where, "relation")
        if outcome.form.numbers and not all(row["answer"].strip().isdigit() for row in scored):
            wrong = next(row for row in scored if not row["answer"].strip().isdigit())
            raise facts.refuse(
                where,
                f"outcome '{outcome}' is about numbers, but prompt '{wrong['item']}' has the answer '{wrong['answer']}'",
            )

    def _donors(self, experiment: Measurement, column: str, rows: list[Row], *, wrong: bool) -> None:
        self.facts.donor(f"{self.where}.donor", column, rows)
        if wrong:
            self.facts.donor(f"{self.where}.donor", f"wrong_{column}", rows)

    def _some_donor(self, experiment: Measurement, column: str, rows: list[Row]) -> None:
        """Refuses outcomes about a donor if no prompt has one: they have no row for a prompt without a donor, and so
        would have none at all."""
        self.facts.donor(f"{self.where}.donor", column, [])
        if rows and not any(row.get(column) for row in rows):
            asked = next(outcome for outcome in experiment.outcomes if outcome.form.donor)
            raise self.facts.refuse(
                f"{self.where}.donor",
                f"outcome '{asked}' needs a donor, but no scored prompt has one (column '{column}')",
            )

    def _perturbation(self, one: Perturbation, measured: list[Row]) -> None:
        where, facts = self.where, self.facts
        for strength in one.strengths:
            if one.injected is None and strength > 1:
                raise facts.refuse(
                    f"{where}.strengths", f"{strength:g} would amplify: the strength of an inhibition is at most 1"
                )
            if one.injected is not None and strength <= 0:
                raise facts.refuse(f"{where}.strengths", f"{strength:g} injects nothing: give a strength above 0")
        if one.injected is None and set(one.strengths) == {1.0}:
            raise facts.refuse(f"{where}.strengths", "a strength of 1 does nothing: add another one")
        if one.dose and len(one.strengths) < 2:
            raise facts.refuse(f"{where}.dose", "a dose curve needs several strengths")
        scored = facts.scored(one.only)
        if one.chooses and not one.rests_on and scored and all(row["split"] != "dev" for row in scored):
            raise facts.refuse(
                where, "strength and depth are chosen on development prompts, and none of those that it scores is one"
            )
        if one.injected is not None:
            self._donors(one, one.donor, measured, wrong="donor" in one.controls)
        elif any(outcome.form.donor for outcome in one.outcomes):
            self._some_donor(one, one.donor, measured)
        if "position" in one.controls and isinstance(one.control_position, Position):
            facts.position(f"{where}.control_position", one.control_position, measured)
            self._never_at(f"{where}.control_position", one.control_position, one.held)
        for site in one.sites:
            facts.position(f"{where}.sites", site, measured)
        if one.line is not None:
            if one.donor != "donor":
                raise facts.refuse(
                    f"{where}.donor", "a line takes its words from the column `donor`: leave `donor` out"
                )
            self._line(one.line, one)

    def _edit(self, one: Edit, measured: list[Row]) -> None:
        there = self.file.experiments[one.as_in or self.name]
        if not isinstance(there, Edit) or there.edit != one.edit or (one.as_in and there.as_in):
            raise self.facts.refuse(f"{self.where}.as_in", f"'{one.as_in}' has no edit of '{one.edit}' of its own")

    def _never_at(self, where: str, at: Position, held: Sequence[str]) -> None:
        """Refuses a control position at which a supernode stands, or may be found."""
        for name in held:
            rule = self.file.supernodes[name]
            if not any(_same(at, own) for own in rule.positions):
                continue
            told, where_else = (
                (f"may be found at '{at}' (`among`)", "a control position outside `among`")
                if rule.among
                else (f"is at '{at}' itself", "another control position")
            )
            raise self.facts.refuse(where, f"supernode '{name}' {told}: choose {where_else}")

    def _exchange(self, one: Exchange, measured: list[Row]) -> None:
        self._donors(one, "donor", measured, wrong=False)
        self.facts.position(f"{self.where}.at", one.at, measured)
        if "position" in one.controls:
            self.facts.position(f"{self.where}.control_position", one.control_position, measured)
            if _same(one.at, one.control_position):
                raise self.facts.refuse(
                    f"{self.where}.control_position",
                    f"'{one.at}' is what is exchanged: choose another control position",
                )
        self._line(one.line, one)

    def _line(self, line: Line, one: Measurement) -> None:
        where, facts = f"{self.where}.line", self.facts
        facts.factor(f"{where}.ends", line.ends)
        facts.factor(f"{where}.family", line.family)
        for number, factor in line.forced.items():
            facts.factor(f"{where}.forced.{number}", factor)
            if not 0 <= number < line.max_words:
                raise facts.refuse(
                    f"{where}.forced",
                    f"the line has no word {number}: it has at most {line.max_words} words, counted from 0",
                )
        if line.min_words >= line.max_words and any(outcome.startswith("line_ends") for outcome in one.outcomes):
            raise facts.refuse(
                f"{where}.min_words",
                f"a line of at most {line.max_words} words cannot have {line.min_words} before its last one",
            )

    def _graph(self, one: Graph, measured: list[Row]) -> None:
        self.facts.factor(f"{self.where}.source", one.source)
        for row in measured:
            if not row.get(one.source) or row[one.source] not in row["text"]:
                raise self.facts.refuse(
                    f"{self.where}.source",
                    f"the text of prompt '{row['item']}' does not contain its level of '{one.source}'",
                )

    def _structure(self, one: Structure, measured: list[Row]) -> None:
        self.facts.factor(f"{self.where}.template", one.template)

    def _census(self, one: Census, measured: list[Row]) -> None:
        if self.file.supernodes[one.through].factor is None:
            raise self.facts.refuse(
                f"{self.where}.through",
                f"the rule of supernode '{one.through}' needs `factor`: its levels are looked for",
            )
        if "position" in one.controls and not one.sites:
            raise self.facts.refuse(
                f"{self.where}.controls", "'position' needs `sites`: other positions at which to look"
            )
        for site in one.sites:
            self.facts.position(f"{self.where}.sites", site, self.facts.rows)
            self._never_at(f"{self.where}.sites", site, one.held)
        if "ordinary" in one.outcomes:
            self.facts.factor(f"{self.where}.outcomes", "spoken")
            self.facts.filled(f"{self.where}.outcomes", "spoken", self.facts.scored(one.only))
        for number in (name for outcome in one.outcomes for name in outcome.names("number")):
            for level in self.facts.levels(str(self.file.supernodes[one.through].factor)):
                self.facts.numbers(f"{self.where}.outcomes", f"{number}_{level}", self.facts.scored(one.only))

    def _attention(self, one: Attention, measured: list[Row]) -> None:
        for key in ("query", "key"):
            self.facts.position(f"{self.where}.{key}", getattr(one, key), measured)

    def _wiring(self, one: Wiring, measured: list[Row]) -> None:
        for supernode in one.of:
            if self.file.supernodes[supernode].operands is None:
                raise self.facts.refuse(
                    f"{self.where}.of", f"the rule of supernode '{supernode}' needs the condition `operands`"
                )

    def _reuse(self, one: Reuse, measured: list[Row]) -> None:
        for column in ("plain", *(["wrong_plain"] if "donor" in one.controls else [])):
            self.facts.factor(self.where, column)
            self.facts.filled(self.where, column, measured)

    def _sharing(self, one: Sharing, measured: list[Row]) -> None:
        for factor in CELL:
            self.facts.factor(self.where, factor)
        members = [outcome for outcome in one.outcomes if not outcome.startswith("overlap")]
        if members and not one.of:
            raise self.facts.refuse(f"{self.where}.of", f"outcome '{members[0]}' is about supernodes: name them")
        if any(outcome.form.donor for outcome in one.outcomes):
            self._donors(one, one.donor, measured, wrong=False)

    def _contrast(self, one: Contrast, measured: list[Row]) -> None:
        for other in one.of:
            there = self.file.experiments[other]
            if not isinstance(there, Perturbation | Exchange | Census):
                raise self.facts.refuse(
                    f"{self.where}.of",
                    f"'{other}' is of kind {there.kind_name()}: only perturbations, exchanges and censuses can be compared",
                )
            for term in (term for outcome in one.outcomes for term in outcome.arguments):
                self.facts.known(f"{self.where}.outcomes", "outcome", term, there.outcomes, other)
        self.facts.shared(f"{self.where}.of", [self.file.experiments[other].only for other in one.of])

    def _crossover(self, one: Crossover, measured: list[Row]) -> None:
        swap = self.file.experiments[one.of[0]]
        if not isinstance(swap, Perturbation) or not swap.dose:
            raise self.facts.refuse(f"{self.where}.of", f"'{one.of[0]}' has no dose curve: it needs `dose: true`")
        last = swap.outcomes[-2:]
        if len(last) < 2 or any(not outcome.form.unit.startswith("probability") for outcome in last):
            raise self.facts.refuse(
                f"{self.where}.of",
                f"the last two outcomes of '{one.of[0]}' must be the probabilities of what takes over and of what gives way",
            )
        self.facts.factor(f"{self.where}.by", one.by)
        if self.facts.items and len({row.get(one.by) for row in self.facts.scored(swap.only)}) < 2:
            raise self.facts.refuse(
                f"{self.where}.by", f"all scored prompts have the same level of '{one.by}': there is nothing to compare"
            )

    def _separation(self, one: Separation, measured: list[Row]) -> None:
        there = self.file.experiments[one.of[0]]
        if isinstance(there, Computed):
            raise self.facts.refuse(f"{self.where}.of", f"'{one.of[0]}' is computed from others: name what is measured")
        self.facts.only(f"{self.where}.against", one.against)
        for key, wanted in (("only", one.only), ("against", one.against)):
            if not meets({**there.only, **wanted}, there.only) or not self.facts.scored({**there.only, **wanted}):
                raise self.facts.refuse(f"{self.where}.{key}", f"'{one.of[0]}' measures no such prompts")
        if any(meets(row, one.against) for row in self.facts.scored(one.only)):
            raise self.facts.refuse(
                f"{self.where}.against", "some prompts would be compared with themselves: see `only`"
            )

    def _signs(self, one: Signs, measured: list[Row]) -> None:
        for other in one.of:
            there = self.file.experiments[other]
            if not isinstance(there, Inhibit):
                raise self.facts.refuse(
                    f"{self.where}.of",
                    f"'{other}' is of kind {there.kind_name()}: only inhibitions can be compared with the graph",
                )
            if not any(outcome == "answer_logit" or outcome.form.name == "activation" for outcome in there.outcomes):
                raise self.facts.refuse(
                    f"{self.where}.of", f"'{other}' measures neither an activation nor answer_logit"
                )
        graphs = [graph for graph in self.file.experiments.values() if isinstance(graph, Graph)]
        if not any(meets(one.only, graph.only) for graph in graphs):
            raise self.facts.refuse(self.where, "no experiment of kind graph traces these prompts")

    def _scale(self, one: Scale, measured: list[Row]) -> None:
        there = self.file.experiments[one.of[0]]
        if "shuffle" not in getattr(there, "controls", ()) or isinstance(there, Census | Computed):
            raise self.facts.refuse(
                f"{self.where}.of", f"'{one.of[0]}' must be an experiment on features with the control shuffle"
            )
        for outcome in one.outcomes:
            self.facts.known(f"{self.where}.outcomes", "outcome", outcome, there.outcomes, one.of[0])
