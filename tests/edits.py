"""Edits of the toy cases (`toy_repository.py`): at least one for every key that case.yaml, claims.yaml and prompts.csv may have.

`MOVING` are those that can move a number of a claim, `IDLE` those that cannot: the first move a hash of claims.lock, the others
none. An edit is the toy case, the path of what is edited in its files, and what stands there then.
"""

from dataclasses import dataclass
from typing import Any

from toy_repository import AMENDED

from biology.cases.rules import TELLING

GONE = object()
"""In the place of a new value: the key is taken out."""


@dataclass(frozen=True, eq=False)
class Edit:
    case: str
    path: str
    value: Any

    def __str__(self) -> str:
        return f"{self.case}: {self.path} = {'gone' if self.value is GONE else self.value}"

    def applied(self, stated: dict) -> None:
        """Edits what a case says in place."""
        *ahead, last = [int(key) if key.isdigit() else key for key in self.path.split("/")]
        for key in ahead:
            stated = stated[key]
        if self.value is GONE:
            del stated[last]
        else:
            stated[last] = self.value(stated[last]) if callable(self.value) else self.value


def places(path: str, value: Any) -> Edit:
    return Edit("places", path, value)


def poems(path: str, value: Any) -> Edit:
    return Edit("poems", path, value)


def sums(path: str, value: Any) -> Edit:
    return Edit("sums", path, value)


def languages(path: str, value: Any) -> Edit:
    return Edit("languages", path, value)


def things(path: str, value: Any) -> Edit:
    return Edit("things", path, value)


def renamed(rows: list[dict]) -> list[dict]:
    """The item i13 by another name, also where it is a donor."""
    return [{column: "new" if value == "i13" else value for column, value in row.items()} for row in rows]


def in_a_chat(rows: list[dict]) -> list[dict]:
    """One of the prompts is asked in the model's chat template."""
    return [{**row, "chat": "true" if number == 6 else ""} for number, row in enumerate(rows)]


def crossing_of_another(experiments: dict) -> dict:
    """Where another swap takes over."""
    another = {**experiments["swap"], "inhibit_share": 0.25}
    return {**experiments, "another": another, "crossing": {**experiments["crossing"], "of": ["another"]}}


def edited_elsewhere(experiments: dict) -> dict:
    """An edit of other features, and what it costs."""
    return {**experiments, **{name: {**experiments[name], "edit": "watched"} for name in ("edit", "cost")}}


def at_the_thing(rule: dict) -> dict:
    """A rule that says where its supernode is."""
    return {key: value for key, value in rule.items() if key not in ("among", "given")} | {"at": "factor:thing"}


def by_difference(rule: dict) -> dict:
    """A rule that takes what makes half of the difference between levels."""
    return {key: value for key, value in rule.items() if key not in TELLING} | {"difference_share": 0.5}


EXPERIMENTS, NODES = "case/experiments", "case/supernodes"
FURTHER = {"kind": "inhibit", "inhibit": "alone", "outcomes": ["answer_probability", "activation:unread"]}

MOVING: dict[str, list[Edit]] = {
    # case.yaml: prompts and rules
    "Prompt.text": [places("case/prompts/hint/text", "w6 w5 w12 w23")],
    "Prompt.factors": [places("case/prompts/hint/factors", {"city": "w5"})],
    "Prompt.chat": [places("case/prompts/hint/chat", True)],
    "SupernodeRule.at": [places(f"{NODES}/own/at", "-2"), things(f"{NODES}/held", at_the_thing)],
    "SupernodeRule.among": [
        things(f"{NODES}/held/among", ["1", "factor:thing"]),
        things(f"{NODES}/held/among", ["factor:thing", "1"]),
    ],
    "SupernodeRule.given": [things(f"{NODES}/held/given", ["relation"])],
    "SupernodeRule.factor": [places(f"{NODES}/own/factor", "hue")],
    "SupernodeRule.precision": [places(f"{NODES}/own/precision", 0.7)],
    "SupernodeRule.recall": [places(f"{NODES}/own/recall", 0.4)],
    "SupernodeRule.false_positive_rate": [places(f"{NODES}/own/false_positive_rate", 0.1)],
    "SupernodeRule.difference_share": [places(f"{NODES}/own", by_difference)],
    "SupernodeRule.within": [places(f"{NODES}/own", lambda rule: {**rule, "within": "relation"})],
    "SupernodeRule.split": [places(f"{NODES}/own/split", "dev")],
    "SupernodeRule.across": [places(f"{NODES}/own/across", ["fold", "relation"])],
    "SupernodeRule.active_on": [places(f"{NODES}/hinted/active_on", [])],
    "SupernodeRule.silent_on": [places(f"{NODES}/hinted/silent_on", [])],
    "SupernodeRule.promotes": [places(f"{NODES}/watched/promotes", ["w5"])],
    "SupernodeRule.not_promotes": [places(f"{NODES}/watched/not_promotes", ["w3", "w40", "w41", "w42"])],
    "SupernodeRule.top": [places(f"{NODES}/watched/top", 12)],
    "SupernodeRule.layers": [places(f"{NODES}/watched/layers", [1, 1])],
    "SupernodeRule.max_members": [places(f"{NODES}/own/max_members", 2)],
    "SupernodeRule.operands": [sums(f"{NODES}/first/operands", GONE)],
    "OperandCondition.family": [sums(f"{NODES}/sum/operands/family", "sum")],
    "OperandCondition.digit": [sums(f"{NODES}/sum/operands/digit", ["range"])],
    "OperandCondition.at": [sums(f"{NODES}/lookup/operands/at", "last")],
    "Operands.first": [sums("case/operands/first", "c")],
    "Operands.second": [sums("case/operands/second", "d")],
    "Operands.only": [sums("case/operands/only", {})],
    # case.yaml: experiments
    "Measurement.only": [places(f"{EXPERIMENTS}/hinted/only", {"relation": "r1"})],
    "Measurement.outcomes": [
        places(
            f"{EXPERIMENTS}/swap/outcomes", ["donor_probability", "answer_probability", "others_probability"]
        ),  # of a crossover
        places(
            f"{EXPERIMENTS}/hinted/outcomes", lambda listed: [one for one in listed if one != "activation:unread"]
        ),  # of signs
        places(
            f"{EXPERIMENTS}/hinted/outcomes", lambda listed: [listed[1], listed[0], *listed[2:]]
        ),  # the first one decides
        places(
            f"{EXPERIMENTS}/rarely/outcomes", ["activation:rare"]
        ),  # nothing is left by which absent members would count
    ],
    "Perturbation.donor": [places(f"{EXPERIMENTS}/far/donor", "donor")],
    "Perturbation.strengths": [places(f"{EXPERIMENTS}/far/strengths", [3])],
    "Perturbation.depths": [places(f"{EXPERIMENTS}/far/depths", [0.4])],
    "Perturbation.direction": [places(f"{EXPERIMENTS}/hinted/direction", "increase")],
    "Perturbation.attention": [places(f"{EXPERIMENTS}/live/attention", "frozen")],
    "Perturbation.cut_direct": [places(f"{EXPERIMENTS}/swap/cut_direct", True)],
    "Perturbation.control_position": [
        places(f"{EXPERIMENTS}/hinted/control_position", "1"),
        poems(f"{EXPERIMENTS}/suppress/control_position", "2"),
    ],
    "Perturbation.sites": [poems(f"{EXPERIMENTS}/suppress/sites", ["2"])],
    "Perturbation.protocol": [places(f"{EXPERIMENTS}/held/protocol", "constrained")],
    "Perturbation.line": [poems(f"{EXPERIMENTS}/inject/line", {"ends": "word", "family": "family", "max_words": 2})],
    "Inhibit.inhibit": [places(f"{EXPERIMENTS}/live/inhibit", "hinted")],
    "Inject.inject": [places(f"{EXPERIMENTS}/far/inject", "watched")],
    "Swap.inhibit": [places(f"{EXPERIMENTS}/swap/inhibit", "watched")],
    "Swap.inject": [places(f"{EXPERIMENTS}/swap/inject", "watched")],
    "Swap.inhibit_share": [places(f"{EXPERIMENTS}/swap/inhibit_share", 0)],
    "Edit.edit": [places(EXPERIMENTS, edited_elsewhere)],
    "Edit.as_in": [places(f"{EXPERIMENTS}/cost/as_in", GONE)],
    "Line.ends": [poems(f"{EXPERIMENTS}/suppress/line/ends", "first")],
    "Line.family": [poems(f"{EXPERIMENTS}/suppress/line/family", "set")],
    "Line.min_words": [poems(f"{EXPERIMENTS}/inject/line/min_words", 2)],
    "Line.max_words": [poems(f"{EXPERIMENTS}/suppress/line/max_words", 2)],
    "Line.forced": [poems(f"{EXPERIMENTS}/inject/line/forced", {"1": "word"})],
    "Line.hidden": [poems(f"{EXPERIMENTS}/suppress/line/hidden", True)],
    "Line.samples": [poems(f"{EXPERIMENTS}/suppress/line/samples", 2)],
    "Exchange.line": [poems(f"{EXPERIMENTS}/resample/line", {"ends": "word", "family": "family", "max_words": 2})],
    "Exchange.at": [poems(f"{EXPERIMENTS}/resample/at", "-2")],
    "Exchange.control_position": [poems(f"{EXPERIMENTS}/resample/control_position", "1")],
    "Graph.through": [places(f"{EXPERIMENTS}/graph/through", "watched")],
    "Graph.source": [places(f"{EXPERIMENTS}/graph/source", "second")],
    "Structure.template": [sums(f"{EXPERIMENTS}/made_of/template", "a")],
    "Census.through": [poems(f"{EXPERIMENTS}/census/through", "rhyme")],
    "Census.sites": [poems(f"{EXPERIMENTS}/census/sites", ["2"])],
    "Attention.key": [places(f"{EXPERIMENTS}/scores/key", "1")],
    "Attention.query": [places(f"{EXPERIMENTS}/scores/query", "-2")],
    "Attention.of": [places(f"{EXPERIMENTS}/scores/of", ["watched"])],
    "Attention.by": [places(f"{EXPERIMENTS}/scores/by", ["watched"])],
    "Attention.heads": [places(f"{EXPERIMENTS}/scores/heads", 0.5)],
    "Attention.pairs": [places(f"{EXPERIMENTS}/scores/pairs", 0.2)],
    "Attention.strength": [places(f"{EXPERIMENTS}/scores/strength", -2)],
    "Attention.undrawn": [places(f"{EXPERIMENTS}/scores/undrawn", ["rare"])],
    "Wiring.of": [sums(f"{EXPERIMENTS}/wiring/of", ["lookup", "none"])],
    "Reuse.of": [sums(f"{EXPERIMENTS}/reuse/of", ["first"])],
    "Sharing.of": [languages(f"{EXPERIMENTS}/core/of", ["upper"])],
    "Sharing.donor": [languages(f"{EXPERIMENTS}/close/donor", "donor")],
    "Contrast.of": [places(f"{EXPERIMENTS}/difference/of", ["held", "live"])],
    "Contrast.share": [places(f"{EXPERIMENTS}/difference/share", 0.6)],
    "Crossover.of": [places(EXPERIMENTS, crossing_of_another)],
    "Crossover.by": [places(f"{EXPERIMENTS}/crossing/by", "relation")],
    "Separation.of": [places(f"{EXPERIMENTS}/apart/of", ["graph"])],
    "Separation.against": [places(f"{EXPERIMENTS}/apart/against", {"relation": "r1", "place": "p1"})],
    "Signs.of": [places(f"{EXPERIMENTS}/signs/of", ["hinted"])],
    "Scale.of": [languages(f"{EXPERIMENTS}/scale/of", ["half"])],
    # claims.yaml
    "Claim.gate": [places("claims/swap/gate", "correct_with_far_donor")],
    "Claim.parts": [places("claims/hinted/parts", lambda parts: parts[:1])],
    "Claim.untestable": [
        places("claims/far", lambda claim: {**claim, "parts": [], "untestable": "nobody can be asked"})
    ],
    "Claim.minimum_n": [places("claims/far/minimum_n", 100)],
    "Claim.expected": [places("claims/swap/expected", {})],
    "Part.name": [places("claims/far/parts/0/name", "another seed")],
    "Part.experiment": [places("claims/graph/parts/0/experiment", "paths")],
    "Part.outcome": [places("claims/far/parts/0/outcome", "answer_logit")],
    "Part.control": [places("claims/swap/parts/0/control", "donor")],
    "Part.direction": [places("claims/far/parts/0/direction", "decrease")],
    "Part.minimum": [places("claims/far/parts/0/minimum", 0.0001)],
    "Part.specificity": [poems("claims/census/parts/1/specificity", {"arms": ["shuffle"], "ratio": 1.2})],
    "Part.ceiling": [poems("claims/census/parts/0/ceiling", {"shuffle": 0.1})],
    "Specificity.arms": [poems("claims/census/parts/1/specificity/arms", ["position"])],
    "Specificity.ratio": [poems("claims/census/parts/1/specificity/ratio", 1.2)],
    # prompts.csv, which counts as one
    "Item.item": [places("rows", renamed)],
    "Item.text": [places("rows/6/text", "w1 w12 w3 w20")],
    "Item.answer": [places("rows/6/answer", "w3")],
    "Item.cluster": [places("rows/6/cluster", "c2")],
    "Item.split": [places("rows/6/split", "dev")],
    "Item.role": [places("rows/4/role", "score")],
    "Item.factors": [places("rows/6/place", "p3"), places("rows/6/donor", "i02"), places("rows", in_a_chat)],
}
IDLE: dict[str, list[Edit]] = {
    "CaseFile.paper": [places("case/paper", {"section": "another", "url": "https://example.com"})],
    "CaseFile.prompts": [places("case/prompts/further", {"text": "w1 w3", "answer": "w9", "factors": {"city": "w3", "relation": "r0", "donor": "i12", "wrong_donor": "i22"}}), things("case/prompts/further", {"text": "w3 w51 w40", "answer": "w9", "factors": {"thing": "w51", "copy": "k2", "relation": "r0", "fold": "1"}})],
    "CaseFile.prompt_set": [places("case/prompt_set", "renamed.csv")],
    "CaseFile.prompt_sets": [places("case/prompt_sets", {"natural": "more.csv"})],
    "CaseFile.supernodes": [places(f"{NODES}/further", {"promotes": ["answer"], "top": 60})],
    "CaseFile.experiments": [
        places(f"{EXPERIMENTS}/further", FURTHER),
        languages(f"{EXPERIMENTS}/further", {"kind": "sharing", "of": ["own"], "outcomes": ["default_written:fr"]}),
        poems(f"{EXPERIMENTS}/further", {"kind": "inhibit", "inhibit": "rhyme", "outcomes": ["activation:rhyme", "answer_logit"]}),
    ],
    "CaseFile.operands": [places("case/operands", {"first": "fold", "second": "turn"})],
    "CaseFile.extended": [places("case/extended", {"brackets": {"set": ["more"]}})],
    "CaseFile.streams": [places("case/streams/further", {"factor": "relation"})],
    "CaseFile.story": [places("case/story", {"arrows": [["own", "answer"]], "traced": "shown", "experiment": "hinted", "shown": "shown"})],
    "CaseFile.figures": [places("case/figures", ["supernode_graph", "fidelity"])],
    "Paper.section": [poems("case/paper/section", "another")],
    "Paper.url": [poems("case/paper/url", "https://example.com")],
    "Prompt.text": [places("case/prompts/idle/text", "w8 w11 w22"), poems("case/prompts/c1/text", "w7 w7 w8"), languages("case/prompts/shown/text", "w1 w10 w32")],
    "Prompt.answer": [places("case/prompts/idle/answer", "w72"), places("case/prompts/hint/answer", "w45"), poems("case/prompts/c1/answer", "w72")],
    "Prompt.split": [places("case/prompts/shown/split", "exploratory")],
    "Prompt.chat": [places("case/prompts/idle/chat", True), poems("case/prompts/c1/chat", True)],
    "Prompt.factors": [
        places("case/prompts/shown/factors/place", "p3"),
        places("case/prompts/idle/factors/relation", "r1"),
        poems("case/prompts/c1/factors/word", "w44"),
        poems("case/prompts/c1/factors/family", "f0"),
    ],
    "SupernodeRule.label": [places(f"{NODES}/own/label", "another"), poems(f"{NODES}/plan/label", "plan")],
    "SupernodeRule.among": [things(f"{NODES}/unread/among", ["1", "factor:thing"])],
    "SupernodeRule.given": [things(f"{NODES}/held/given", ["relation", "copy"])],
    "SupernodeRule.top": [places(f"{NODES}/alone/top", 50)],
    "SupernodeRule.promotes": [places(f"{NODES}/alone/promotes", ["w5", "answers"])],
    "SupernodeRule.not_promotes": [places(f"{NODES}/alone/not_promotes", ["w3"])],
    "Stream.factor": [places("case/streams/place/factor", "relation")],
    "Stream.across": [places("case/streams/place/across", [])],
    "Stream.donor": [places("case/streams/place/donor", "far_donor")],
    "Stream.expected": [places("case/streams/place/expected", GONE)],
    "Stream.only": [places("case/streams/place/only", {})],
    "Measurement.only": [places(f"{EXPERIMENTS}/paths/only", {})],
    "Measurement.outcomes": [places(f"{EXPERIMENTS}/far/outcomes", ["donor_probability", "answer_probability", "lost:unread"])],
    "Perturbation.strengths": [places(f"{EXPERIMENTS}/unread/strengths", [0.5])],
    "Perturbation.depths": [places(f"{EXPERIMENTS}/unread/depths", [0.5, 1.0])],
    "Perturbation.direction": [
        places(f"{EXPERIMENTS}/unread", lambda one: {**one, "strengths": [0, 0.5], "direction": "decrease"})
    ],
    "Perturbation.control_position": [
        places(f"{EXPERIMENTS}/unread", lambda one: {**one, "controls": ["position"], "control_position": "2"})
    ],
    "Perturbation.donor": [places(f"{EXPERIMENTS}/held/donor", "far_donor")],
    "Perturbation.dose": [places(f"{EXPERIMENTS}/hinted/dose", True), poems(f"{EXPERIMENTS}/suppress/dose", False)],
    "Perturbation.sites": [poems(f"{EXPERIMENTS}/inject/sites", [])],
    "Perturbation.controls": [places(f"{EXPERIMENTS}/swap/controls", ["position", "donor", "match"])],
    "Perturbation.prompts": [places(f"{EXPERIMENTS}/swap/prompts", []), places(f"{EXPERIMENTS}/far/prompts", ["shown"])],
    "Exchange.controls": [poems(f"{EXPERIMENTS}/unread/controls", [])],
    "Exchange.prompts": [poems(f"{EXPERIMENTS}/resample/prompts", [])],
    "Graph.controls": [places(f"{EXPERIMENTS}/paths/controls", [])],
    "Faithfulness.controls": [sums(f"{EXPERIMENTS}/worth/controls", ["shuffle", "random"])],
    "Structure.controls": [sums(f"{EXPERIMENTS}/made_of/controls", ["shuffle", "match"])],
    "Census.controls": [poems(f"{EXPERIMENTS}/census/controls", ["shuffle", "position"])],
    "Attention.controls": [places(f"{EXPERIMENTS}/exact/controls", [])],
    "Classes.controls": [sums(f"{EXPERIMENTS}/classes/controls", ["shuffle"])],
    "Wiring.controls": [sums(f"{EXPERIMENTS}/wiring/controls", ["shuffle"])],
    "Connectivity.controls": [sums(f"{EXPERIMENTS}/connectivity/controls", ["shuffle"])],
    "Reuse.controls": [sums(f"{EXPERIMENTS}/reuse/controls", ["random", "donor"])],
    "Sharing.controls": [languages(f"{EXPERIMENTS}/overlap/controls", ["shuffle", "match"])],
    "Signs.of": [places(f"{EXPERIMENTS}/signs/of", ["held", "hinted"])],
    "Signs.controls": [places(f"{EXPERIMENTS}/signs/controls", [])],
    "Claim.title": [places("claims/swap/title", "another")],
    "Claim.paper_says": [places("claims/swap/paper_says", "something")],
    "Claim.source": [places("claims/swap/source", {"section": "another", "confidence": "digest"})],
    "Claim.registered": [places("claims/swap/registered", "2026-11-21")],
    "Claim.amended": [places("claims/swap/amended", AMENDED)],
    "Claim.untestable": [places("claims/silent/untestable", "nobody knows")],
    "Source.section": [poems("claims/census/source/section", "another")],
    "Source.confidence": [poems("claims/census/source/confidence", "digest")],
    "Specificity.arms": [places("claims/swap/parts/0/specificity/arms", ["position", "donor"])],
    "Amendment.date": [sums("claims/reuse/amended/date", "2026-11-22")],
    "Amendment.reason": [sums("claims/reuse/amended/reason", "another reason")],
    "Amendment.previous": [sums("claims/reuse/amended/previous", "1" * 64)],
    "Amendment.seen_on": [sums("claims/reuse/amended/seen_on", [])],
}  # fmt: skip
IDENTITY = {"Claim.id"}
"""What a record is called; one of another name is another one. So is an experiment of another `kind`."""
