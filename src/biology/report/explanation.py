"""A case file in English: every prompt, supernode, experiment and claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from biology.arms import CONTROLS
from biology.cases.case import Case
from biology.cases.claim_file import MINIMUM_N, Claim, Part
from biology.cases.experiments import (
    Attention,
    Census,
    Classes,
    Connectivity,
    Contrast,
    Crossover,
    Faithfulness,
    Graph,
    Reuse,
    Scale,
    Separation,
    Sharing,
    Signs,
    Structure,
    Wiring,
)
from biology.cases.figure_names import own_figures
from biology.cases.items import Item
from biology.cases.measurement import Line, Measurement
from biology.cases.mechanism import Absent, Mechanism
from biology.cases.perturbations import Edit, Exchange, Inhibit, Inject, Perturbation, Swap
from biology.cases.positions import FOUND, Position
from biology.cases.rules import Stream, SupernodeRule
from biology.statistics import ALPHA
from biology.wording import listed


def case_told(case: Case, claims: Sequence[Claim], unlocked: Mapping[str, str] | None = None) -> str:
    """A case in English sentences. `unlocked` says of claims that they are not registered as they are (`registration.not_locked`)."""
    lines = [f"{case.name}: {case.paper.section} ({case.paper.url})", "", "PROMPTS", ""]
    for name, prompt in case.prompts.items():
        lines += [f"{name}: {prompt.text!r} is answered by {prompt.answer!r} ({prompt.split})."]
        lines += (
            [f"    {listed(f'{factor} {level!r}' for factor, level in prompt.factors.items())}"]
            if prompt.factors
            else []
        )
    lines += ["", *_items_told(case.items), *_too_few_told(case.items, claims)]
    lines += ["", "SUPERNODES", ""]
    for name, rule in case.supernodes.items():
        lines += [f"{name}{f' ({rule.label})' if rule.label else ''}: {rule_told(rule)}"]
    if case.streams:
        lines += ["", "MEAN STREAMS", ""]
        lines += [f"{name}: {stream_told(stream)}" for name, stream in case.streams.items()]
    lines += ["", "EXPERIMENTS", ""]
    for name, experiment in case.experiments.items():
        lines += [f"{name} ({experiment.kind}): {experiment_told(experiment)}"]
        lines += [f"    {outcome} ({outcome.form.unit}): {outcome.meaning}" for outcome in experiment.outcomes]
        arms = dict.fromkeys(arm for outcome in experiment.outcomes for arm in case.arms(name, outcome))
        lines += [f"    control {arm}: {CONTROLS[arm].says}" for arm in arms]
    lines += ["", "CLAIMS", ""]
    for claim in claims:
        lines += claim_told(claim, (unlocked or {}).get(claim.id, ""))
    own = own_figures(case.folder)
    lines += ["", f"Figures: {listed(case.figures)}." + (f" Its own are {listed(own)}." if own else "")]
    return "\n".join(lines)


def mechanism_told(mechanism: Mechanism, twin: str = "") -> str:
    """The causal model of a case, or of a twin, in English: what depends on what, where it is held, and which claims follow."""
    of = f" OF THE TWIN {twin}" if twin else ""
    lines = [
        f"MECHANISM{of} (of models that are planted with it: docs/explanation/planting.md)",
        "",
        mechanism.says,
        "It acts by where attention looks.\n" * (mechanism.attention == "decides"),
    ]
    for name, variable in mechanism.variables.items():
        parents = variable.depends_on or (str(variable.value),)
        lines += [f"{', '.join(parents)} --> {name}"]
        places = [variable.at] if isinstance(variable.at, Position) else list(dict.fromkeys(variable.at.values()))
        where = " or ".join(at.meaning for at in places)
        share = f", in {variable.subspace} dimensions of its own" if variable.subspace else ""
        first, last = variable.layers
        layers = f"layer {first}" if first == last else f"layers {first} to {last}"
        lines += [f"    {variable.meaning}: in what the MLPs of {layers} write {where}{share}"]
        if variable.absent is not None:
            lines += [f"    without it {_absent_told(variable.absent)}"]
    lines += [f"{', '.join(mechanism.answer.depends_on) or mechanism.answer.value} --> the answer", ""]
    for claim, truth in mechanism.truth.items():
        lines += [f"{claim} is {truth.truth}: {truth.because}"]
    return "\n".join(lines)


def _absent_told(absent: Absent) -> str:
    if absent.says is not None:
        told = f"the {absent.says} itself is said"
    elif absent.takes is not None:
        told = f"the answer is that for {absent.takes}"
    else:
        told = f"every answer with the same {listed(absent.shares or ())} is as probable"
    return told + (f", but for prompts with a {absent.unless}" if absent.unless else "")


def _items_told(items: Sequence[Item]) -> list[str]:
    if not items:
        return ["There is no prompt set: named prompts are all there is, and no claim can be judged."]
    count = Counter((item.split, item.role) for item in items)
    told = [f"The prompt set has {len(items)} prompts in {len({item.cluster for item in items})} clusters:"]
    words = {"select": "on which supernodes are selected", "score": "on which effects are measured"}
    for split in ("dev", "heldout"):
        for role, does in words.items():
            clusters = {item.cluster for item in items if (item.split, item.role) == (split, role)}
            told += [f"    {count[split, role]} of split {split} {does} (in {len(clusters)} clusters)"]
    return told


def _too_few_told(items: Sequence[Item], claims: Sequence[Claim]) -> list[str]:
    """Says so where no claim can be replicated, as flipping the signs of so few clusters cannot give a p that is small enough."""
    clusters = len({item.cluster for item in items if (item.split, item.role) == ("heldout", "score")})
    asked = sum(bool(claim.parts) for claim in claims)
    if not clusters or asked * 0.5**clusters < ALPHA:
        return []
    return [
        f"    Too few: with {clusters} clusters held out p is never below {0.5**clusters:.2g}, and of {asked} claims Holm's correction asks for "
        f"less than {ALPHA / max(asked, 1):.2g}. Nothing can be replicated."
    ]


def rule_told(rule: SupernodeRule) -> str:
    """The rule for members of a supernode, in English."""
    told = f"the features that are active {rule.at.meaning}"
    if rule.factor is not None:
        where = "at a token that is found" if rule.at == FOUND else rule.at.meaning
        told = f"the features that {where} tell the prompt's {rule.factor} from others"
    told += f", and on {listed(rule.active_on)}" if rule.active_on else ""
    told += f", and not on {listed(rule.silent_on, 'or')}" if rule.silent_on else ""
    if rule.operands is not None:
        digit = f" and is about {listed(rule.operands.digit, 'or')}" if rule.operands.digit else ""
        where = f" {rule.operands.at.meaning}" if rule.operands.at else ""
        told += f", and whose operand plot{where} shows the family {rule.operands.family}{digit}"
    told += f", in layers {rule.layers[0]} to {rule.layers[1]}" if rule.layers else ""
    told += "."
    if rule.factor is not None:
        told += _telling(rule)
        told += f". Chosen on {'development prompts' if rule.split == 'dev' else 'prompts of both splits'}"
        told += f" that differ from the scored one in {listed(rule.across)}." if rule.across else "."
    for verb, words in (("promotes", rule.promotes), ("does not promote", rule.not_promotes)):
        told += f" Each {verb} {listed(words, 'or')} among its first {rule.top} tokens." if words else ""
    told += f" At most {rule.max_members} are kept." if rule.max_members else ""
    return told + (_found_told(rule) if rule.at == FOUND else "")


def _telling(rule: SupernodeRule) -> str:
    if rule.difference_share is not None:
        near = f" of the same {rule.within}" if rule.within else ""
        more = f"how much more is written on selecting prompts with this {rule.factor} than on those with another{near}"
        return f" They are the fewest that make up {rule.difference_share:.0%} of {more}"
    told = f" Each fires on at least {rule.recall:.0%} of the selecting prompts with this {rule.factor}"
    told += (
        f" and on at most {rule.false_positive_rate:.0%} of those with another" if rule.false_positive_rate < 1 else ""
    )
    told += f", also of those that share its {rule.within}" if rule.within else ""
    return told + (
        f"; at least {rule.precision:.0%} of those on which it fires have this one" if rule.precision else ""
    )


def _found_told(rule: SupernodeRule) -> str:
    """How position and layers are found, in English."""
    first, *others = rule.among
    places = listed((at.meaning for at in rule.among), "or")
    if others:
        which = f"The token is found on development prompts, {places}, and so are the layers"
    else:
        which = "The layers are found on development prompts"
    return (
        f" {which}: where an "
        f"exchange of what the MLPs wrote for that of prompts with another {rule.factor} most often moves the answer to the one for that "
        f"{rule.factor} and the prompt's own {listed(rule.given)}. If hardly any does, it is {first.meaning}, in all layers."
    )


def stream_told(stream: Stream) -> str:
    """What an exchange of mean residual streams does, in English."""
    apart = f", from prompts that differ in {listed(stream.across)}" if stream.across else ""
    wanted = f"the prompt's {stream.expected}" if stream.expected else "the donor's answer"
    return (
        f"on {_of(stream.only)}, the mean residual stream of prompts with the {stream.factor} of the donor (column {stream.donor}){apart}, "
        f"takes the place of the prompt's own at the last token; counted is whether {wanted} is said. Control: the wrong donor."
    )


def _of(only: dict[str, str]) -> str:
    return "the scored prompts" + (
        f" with {listed(f'{factor} {level}' for factor, level in only.items())}" if only else ""
    )


def experiment_told(one: Measurement) -> str:
    """What an experiment does, to which prompts, and how its strength is chosen."""
    told = f"on {_of(one.only)}, {_done(one)}."
    if isinstance(one, Perturbation):
        layers = listed((f"{depth:.0%}" for depth in one.depths), "or")
        strengths = f"that of {one.rests_on[0]}" if one.rests_on else listed((f"{m:g}" for m in one.strengths), "or")
        told += f" M is {strengths}" + ("" if isinstance(one, Edit) else f", in the lowest {layers} of the layers")
        told += (
            f": development prompts choose the weakest at which {one.outcomes[0]} {one.direction}s nearly as much beyond its control as at any."
            if one.chooses
            else "."
        )
        settled = "iteratively, with live" if one.line else f"by protocol {one.protocol}, with {one.attention}"
        told += f" Features are held {settled} attention{', their direct paths to the logits cut' if one.cut_direct else ''}."
        if "position" in one.controls:
            best = "that of its sites which moves most, chosen on development prompts"
            told += f" The control position is {one.control_position.meaning if isinstance(one.control_position, Position) else best}."
        told += " All strengths are run on held-out prompts too, for the dose curve." if one.dose else ""
    if isinstance(one, Perturbation | Exchange):
        told += _line_told(one.line) if one.line else ""
        told += f" Shown on {listed(one.prompts)}." if one.prompts else ""
    return told


def _done(one: Measurement) -> str:
    match one:
        case Inhibit():
            return f"{one.inhibit} is held at M times its clean activation"
        case Inject():
            return f"{one.inject} of the donor (column {one.donor}) is held at M times its activation there"
        case Swap():
            share = one.inhibit_share
            down = f"minus {share:g} M" if share not in (0, 1) else "minus M" if share else "0"
            up = f"{one.inject} of the donor (column {one.donor}) at M times its activation there"
            return f"{one.inhibit} is held at {down} times its clean activation and {up}"
        case Edit():
            return f"the members of {one.edit}{f', as in {one.as_in},' if one.as_in else ''} are held at M times their activation wherever active"
        case Exchange():
            return f"the residual stream {one.at.meaning} is, in all layers, that of the donor (column donor)"
        case Graph():
            return f"the attribution graph is asked for the paths through {one.through} and from the tokens of the prompt's {one.source}"
        case Census():
            return f"the features that the rule of {one.through} finds for the prompt's own level are looked for"
        case Attention():
            apart = f"; matched random features are none of {listed(one.undrawn)}" if one.undrawn else ""
            return f"scores from the token {one.query.meaning} to that {one.key.meaning} are taken apart and changed, in {one.heads:.0%} of the heads{apart}"
        case Classes():
            return "the features that carry the influence on the answer are told by their operand plots"
        case Wiring():
            return f"weights from active features of {one.of[0]} are compared between the targets of {one.of[1]}"
        case Faithfulness():
            return "the attribution graph and the replacement model are compared with the model, and with themselves on shuffled transcoders"
        case Structure():
            return f"the attribution graph is taken apart; prompts with the same {one.template} are of one template"
        case Connectivity():
            return "the inputs of active features at the last token are told by families of operand plots"
        case Reuse():
            return f"what {one.of[0]} does is compared with what it does on the plain prompt"
        case Sharing():
            of = f"the members of {listed(one.of)}" if one.of else "active features"
            return f"{of} are compared with those of translations"
        case Contrast():
            taken = f"{one.share:g} times {one.of[1]}" if one.share != 1 else one.of[1]
            return f"{taken} is taken off {one.of[0]}, item by item and arm by arm"
        case Crossover():
            return f"the strengths at which {one.of[0]} takes over are compared between levels of {one.by}"
        case Separation():
            return f"the first outcome of {one.of[0]} is compared with that on {_of(one.against)}"
        case Signs():
            return f"the effects of {listed(one.of)} are compared with the signs of the attribution graph"
        case Scale():
            return f"{one.of[0]}, above its control shuffle, is compared with the same on a smaller model"
    raise TypeError(type(one).__name__)


def _line_told(line: Line) -> str:
    told = f" A line of at most {line.max_words} words is written; it ends in a word of factor {line.ends}, and such words rhyme in {line.family}."
    told += "".join(f" Word {number} is the prompt's {factor}." for number, factor in line.forced.items())
    told += " It is written without sight of what stands before the prompt's last token." if line.hidden else ""
    return told + (f" {line.samples} lines are sampled." if line.samples else "")


def claim_told(claim: Claim, unlocked: str = "") -> list[str]:
    """What the paper says, what is measured, and what would count; and `unlocked`, why it is not registered as it is."""
    lines = [
        f"{claim.id}: {claim.title}",
        f"    The paper ({claim.source.section}; {claim.source.confidence}): {claim.paper_says}",
    ]
    if claim.untestable:
        return [*lines, f"    Untestable: {claim.untestable}"]
    fewer = f" ({MINIMUM_N} on models with a prompt set of their own)" if claim.minimum_n > MINIMUM_N else ""
    lines += [
        f"    Asked of held-out prompts that pass `{claim.gate}`, {claim.minimum_n} of them at least{fewer}; holds if all of this does:"
    ]
    lines += [f"    - {part.name}: {part_told(part)}" for part in claim.parts]
    amended = "".join(f", amended {one.date:%Y-%m-%d}" for one in claim.amended)
    stands = (
        f"{unlocked[0].upper()}{unlocked[1:]}: `biology lock`"
        if unlocked
        else f"Registered {claim.registered:%Y-%m-%d}{amended}"
    )
    return [*lines, f"    {stands}."]


def part_told(part: Part) -> str:
    """What a part of a claim demands, in English."""
    against = "" if part.control == "none" else f" minus its control {part.control}"
    measured = f"{part.outcome} of {part.experiment}{against}"
    if part.direction == "equivalent":
        told = f"{measured} lies between -{part.minimum:g} and {part.minimum:g}, its whole interval too"
    else:
        way = "falls" if part.direction == "decrease" else "is above zero"
        told = f"{measured} {way} by {part.minimum:g} at least; it is refuted where the interval lies below {part.minimum / 2:g}"
    if part.specificity is not None:
        told += f"; {part.specificity.ratio:g} times as much as {listed(part.specificity.arms)} at least"
    told += "".join(f"; {arm} at most {bound:g}" for arm, bound in part.ceiling.items())
    return told + "."
