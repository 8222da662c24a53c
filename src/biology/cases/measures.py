"""Outcomes: what an experiment may measure. Each is defined here and nowhere else; the modules that compute outcomes
look them up here.

An outcome is one word, or a word with arguments: `answer_top1`, `activation:bridge`, `kept:concept+language`,
`difference:lost:say`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from biology.grammar import Parsed, unknown

PERTURBED = ("inhibit", "inject", "swap", "edit")
"""Kinds that hold features."""
WRITING = ("inhibit", "inject", "swap", "exchange")
"""Kinds that may write a line."""
CLASSED = ("add", "lookup", "sum")
"""Families of operand plots that show a dependence on the operands."""
NEAR = 5
"""Largest distance of a number from the answer that counts as near."""
MASS = 0.8
"""Share of the probability of all numbers that `width` covers."""
HOLDING = 0.9
"""Share of the sum of singular values that `interactions` counts up to."""
SIDES = {
    "of": ("scaled_attention", "scaled_answer", "pair_share", "interactions"),
    "by": ("pair_share", "interactions"),
}
"""Outcomes of `attention` that rest on the supernodes of either side."""
DRAWN = ("scaled_attention", "scaled_answer", "pair_share")
"""Those of which control `match` draws features."""
FAMILIES = (*CLASSED, "constant", "other")


@dataclass(frozen=True)
class Form:
    """One form of an outcome."""

    name: str
    told: str
    """Sentence about its mean: `the answer is said on {value} of the prompts`. `{0}` and `{1}` are replaced by its
    arguments, `{through}` and `{source}` by the experiment's."""
    says: str
    """Its definition in one sentence; `{0}` and `{1}` are replaced by its arguments."""
    unit: str
    kinds: tuple[str, ...]
    """Kinds of experiment that may measure it."""
    about: str = ""
    """Type of the arguments after the colon: supernode, factor, number, language, layer, family, families or outcome; empty: no
    arguments."""
    count: tuple[int, int] = (0, 0)
    """Smallest and largest number of arguments."""
    separator: str = "+"
    line: bool = False
    """Whether it is about a line written after the prompt."""
    donor: bool = False
    """Whether it needs the prompt's donor."""
    numbers: bool = False
    """Whether it needs answers that are numbers."""
    unchanged: float | None = None
    """For outcomes that watch a supernode: the value if nothing changes. A prompt without members has no value."""
    beside: tuple[str, ...] = ()
    """Control arms that it always has, without being listed."""
    controls: tuple[str, ...] | None = None
    """Control arms that it can have; by default all that the experiment lists."""

    @property
    def written(self) -> str:
        """How it is written, e.g. `activation:<supernode>`."""
        if not self.about:
            return self.name
        more = "..." if self.count[1] > 2 else ""
        return f"{self.name}:" + self.separator.join([f"<{self.about}>"] * min(2, self.count[1])) + more

    @property
    def reach(self) -> float | None:
        """Largest possible difference between two of its values; None if unbounded."""
        if self.unit in (ONE, SHARE, PROBABILITY) or self.unit.startswith("area"):
            return 1.0
        return 2.0 if "-1 to 1" in self.unit else None

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON Schema."""
        told = {"description": f"{self.written} ({self.unit}): {self.says}"}
        if not self.about:
            return {"const": self.name} | told
        one = {"family": f"({'|'.join((*FAMILIES, 'error'))})", "layer": r"\d+"}.get(self.about, ".+")
        return {"type": "string", "pattern": f"^{self.name}:{self.separator.join([one] * self.count[0])}"} | told

    def asked_by(self, kind: str, *, line: bool = False) -> bool:
        """Whether an experiment of this kind, with or without a `line`, may measure it."""
        return kind in self.kinds and (kind not in WRITING or self.line == line)


ONE, SHARE, PROBABILITY = "0 or 1", "share, 0 to 1", "probability, 0 to 1"
LOST = "share lost, at most 1"
FORMS = {
    form.name: form
    for form in (
        # the model's answers under a perturbation (outcomes.py)
        Form("answer_probability", "the answer has a probability of {value}", "the probability of the prompt's answer", PROBABILITY, PERTURBED),
        Form("donor_probability", "the donor's answer has a probability of {value}", "the probability of the donor's answer", PROBABILITY, PERTURBED, donor=True),
        Form("answer_top1", "the answer is said on {value} of the prompts", "whether the prompt's answer is the most probable token", ONE, PERTURBED),
        Form("answer_lost", "the answer is no longer said on {value} of the prompts", "whether the prompt's answer, which the model gives by itself, is no longer the most probable token", ONE, PERTURBED),
        Form("donor_top1", "the donor's answer is said on {value} of the prompts", "whether the donor's answer is the most probable token", ONE, PERTURBED, donor=True),
        Form("others_probability", "other answers to the same question have a probability of {value} together", "the probability of all other answers to the prompt's relation", PROBABILITY, PERTURBED),
        Form("answer_logit", "the answer's logit stands {value} above the mean logit", "the logit of the answer, minus the mean logit", "logits", PERTURBED, beside=("clean",)),
        Form(
            "advantage", "{value} of the answer's lead over the donor's answer is left", "the logit of the answer minus that of the donor's answer, over what it is on the clean prompt",
            "ratio, 1 on the clean prompt", PERTURBED, donor=True, beside=("shuffle",),
        ),
        Form(
            "activation", "{0} keeps {value} of its activity", "the activation of the supernode {0}, over its activation on the clean prompt",
            "ratio, 1 on the clean prompt", PERTURBED, "supernode", (1, 1), unchanged=1.0, beside=("clean",),
        ),
        Form(
            "lost", "{0} has lost {value} of its activity", "the share of its clean activation that the supernode {0} has lost", "share, 0 on the clean prompt",
            PERTURBED, "supernode", (1, 1), unchanged=0.0,
        ),
        # cells of a factorial design (outcomes.py)
        Form("level_top1", "the prompt's {0} is said on {value} of the prompts", "whether the prompt's own {0} is the most probable token", ONE, PERTURBED, "factor", (1, 1)),
        Form("level_probability", "the prompt's {0} has a probability of {value}", "the probability of the prompt's own {0} as the next token", PROBABILITY, PERTURBED, "factor", (1, 1)),
        Form(
            "kept", "another answer with the same {0} is said on {value} of the prompts", "whether the most probable token is not the prompt's answer, but that of a prompt with the same {0}",
            ONE, PERTURBED, "factor", (1, 9),
        ),
        # answers that are numbers (number_outcomes.py)
        Form("ones_right", "the number that is said has the right ones digit on {value} of the prompts", "whether the most probable token is a number with the answer's ones digit", ONE, PERTURBED, numbers=True, beside=("clean",)),
        Form("near_right", "the number that is said is near the answer on {value} of the prompts", f"whether the most probable token is a number at most {NEAR} from the answer", ONE, PERTURBED, numbers=True, beside=("clean",)),
        Form("near_probability", "numbers near the answer, without it, have a probability of {value}", f"the probability of numbers at most {NEAR} from the answer, without the answer", PROBABILITY, PERTURBED, numbers=True),
        Form("width", "it takes {value} numbers to hold most of the probability", f"how many consecutive numbers it takes to hold {MASS:.0%} of the probability of all numbers", "count, from 1", PERTURBED, numbers=True),
        Form(
            "ones_swapped", "the answer with the donor's ones digit is said on {value} of the prompts", "whether the most probable token has the answer's tens and the ones digit of the donor's answer",
            ONE, PERTURBED, donor=True, numbers=True,
        ),
        # lines (written_lines.py)
        Form("line_ends_own", "the line ends in the word that it planned on {value} of the prompts", "whether the line ends in the word that the prompt plans", ONE, WRITING, line=True, beside=("clean",)),
        Form("line_ends_donor", "the line ends in the word that the donor plans on {value} of the prompts", "whether the line ends in the word that the donor plans", ONE, WRITING, line=True, donor=True, beside=("clean",)),
        Form(
            "line_ends_family", "the line ends in a word that rhymes on {value} of the prompts", "whether the line ends in a word that rhymes with the prompt's, its own one included", ONE,
            WRITING, line=True, beside=("clean",),
        ),
        Form("line_ends_rhyme", "the line ends in another word that rhymes on {value} of the prompts", "whether the line ends in another word that rhymes with the prompt's own", ONE, WRITING, line=True, beside=("clean",)),
        Form("line_starts_donor", "the line begins with the donor's first word on {value} of the prompts", "whether the line's first word is the donor's answer", ONE, WRITING, line=True, donor=True, beside=("clean",)),
        Form(
            "answer_log_odds", "the log-odds of the donor's answer rise by {value}", "the change, against the clean prompt, of the log-odds of the donor's answer to the own answer",
            "nats", WRITING, line=True, donor=True, beside=("clean",),
        ),
        Form("answer_moves", "the log-odds of the donor's answer rise on {value} of the prompts", "whether the log-odds of the donor's answer to the own answer rise", ONE, WRITING, line=True, donor=True, beside=("clean",)),
        Form(
            "ending_log_odds", "the log-odds of the word that the donor plans rise by {value}", "the change of the log-odds of the donor's planned word to the own planned word, as the next word",
            "nats", WRITING, line=True, donor=True, beside=("clean",),
        ),
        # features that tell a later word (census.py)
        Form(
            "planned", "{value} of the features of the prompt's own word fire there", "the share of the features of the prompt's level that fire at the rule's position", SHARE, ("census",),
            controls=("position", "shuffle", "random"),
        ),
        Form(
            "written", "the features of the prompt's own word write {value} of what is written more for it there", "the share of what the MLPs write more for the prompt's level, at the rule's position, that the features of the level write",
            SHARE, ("census",), controls=("position", "shuffle", "random"),
        ),
        Form(
            "candidates", "features of another candidate fire there as well on {value} of the prompts", "whether features of the prompt's level and of another level of its cluster fire there at once", ONE,
            ("census",), controls=("shuffle", "random"),
        ),
        Form(
            "ordinary", "a feature that fires there also fires where the word itself is next on {value} of the prompts", "whether a feature of the level that fires there also fires where the word itself is next", ONE,
            ("census",), controls=("shuffle", "random"),
        ),
        Form(
            "probe", "a linear probe names the word there on {value} of the prompts", "whether a linear probe on the residual stream there names the level", ONE, ("census",),
            controls=("position", "shuffle"),
        ),
        Form(
            "follows", "the activity of each level's features follows its {0} with a correlation of {value}", "the correlation over prompts, averaged over the factor's levels, of the mean activation of a level's features with the number in column {0}_<level>",
            "-1 to 1", ("census",), "number", (1, 1), controls=("shuffle", "random"),
        ),
        # attention scores (score_evidence.py)
        Form("score_error", "the terms of a score add up to it within {value} of its size", "the difference between an attention score and the sum of its terms, over the score; the largest of the heads", "relative error", ("attention",), controls=()),
        Form("pair_share", "pairs between the supernodes make {value} of all positive pairs", "what pairs of features of `by` and of `of` add to the scores, over the sum of all positive pairs", "share, -1 to 1", ("attention",), controls=("match",)),
        Form("interactions", "{value} independent interactions carry what the supernodes add to the scores", f"the number of singular values that hold {HOLDING:.0%} of the sum of all, of the matrix of what each supernode of `by` adds to the scores with each of `of`", "count, from 0", ("attention",), controls=()),
        Form("pairs_attention", "{value} of the attention is lost without the largest pairs", "the share of the attention from query to key that is lost if the largest pairs of nodes leave the scores", LOST, ("attention",), controls=("match",)),
        Form("pairs_answer", "{value} of the answer's probability is lost without the largest pairs", "the share of the answer's probability that is lost if the largest pairs of nodes leave the scores", LOST, ("attention",), controls=("match",)),
        Form("scaled_attention", "{value} of the attention is lost if the features of the key are scaled there", "the share of the attention from query to key that is lost if the features of `of` stand at `strength` in the keys of these heads, and nowhere else", LOST, ("attention",), controls=("match",)),
        Form("scaled_answer", "{value} of the answer's probability is lost if the features of the key are scaled there", "the share of the answer's probability that is lost if the features of `of` stand at `strength` in the keys of these heads, and nowhere else", LOST, ("attention",), controls=("match",)),
        # paths of the graph (graph_tables.py)
        Form("path_share", "{value} of the influence on the answer runs through {through}", "the share of the influence on the answer's logit whose paths pass through the supernode", SHARE, ("graph",)),
        Form("shortcut", "{value} of the influence of the prompt's {source} on the answer goes around {through}", "the share of the source tokens' influence on the answer's logit that goes around the supernode", SHARE, ("graph",)),
        Form("source_share", "{value} of the influence on {through} starts at the prompt's {source}", "the share of the influence on the supernode that starts at the source tokens", SHARE, ("graph",)),
        Form(
            "token_share", "{value} of the influence on the answer starts at the prompt's {source}", "the share of the influence on the answer's logit that starts at the source tokens", SHARE,
            ("graph",), controls=(),
        ),
        Form(
            "agreement", "their agreement is {value}, where 1 is all signs as foretold and 0 is chance", "how well the signs of the graph foretell what inhibitions do: the mean of 1 (as foretold) and -1 over pairs",
            "-1 to 1", ("signs",), controls=("shuffle",),
        ),
        # how well graph and replacement model represent the model (validation/faithfulness.py)
        Form(
            "replaced_top1", "the replacement model names the model's next token on {value} of the prompts", "whether the replacement model, in which features stand for all MLPs and nothing for what they leave out, says what the model says",
            ONE, ("faithfulness",), controls=("random",),
        ),
        Form("replacement", "{value} of the influence on the output starts at tokens, not at errors", "the replacement score of the graph: of the influence on the outputs, the share that starts at tokens", SHARE, ("faithfulness",), controls=("random",)),
        Form("completeness", "{value} of what nodes take in comes from features and tokens", "the completeness score of the graph: of what nodes take in, weighted by their influence, the share that is no error", SHARE, ("faithfulness",), controls=("random",)),
        Form(
            "pruned_completeness", "pruning leaves {value} of the completeness", "the completeness score of the pruned graph, what is pruned away counted as errors, over that of the whole one",
            "ratio, 1 where nothing is lost", ("faithfulness",), controls=(),
        ),
        Form("pruned_away", "pruning takes {value} of the features away", "the share of the graph's feature nodes that pruning takes away", SHARE, ("faithfulness",), controls=()),
        Form(
            "influence_foretells", "influence foretells what ablations do with a rank correlation of {value}", "the rank correlation, over features, of influence with what their ablation does to the output",
            "-1 to 1", ("faithfulness",), controls=("shuffle",),
        ),
        Form(
            "influence_over_edge", "influence foretells ablations better than direct edges do, by {value}", "the rank correlation with ablations of influence, minus that of direct edges to the outputs",
            "-1 to 1", ("faithfulness",), controls=(),
        ),
        Form(
            "edge_over_activation", "direct edges foretell ablations better than activations do, by {value}", "the rank correlation with ablations of direct edges to the outputs, minus that of activations times the length of what they write",
            "-1 to 1", ("faithfulness",), controls=(),
        ),
        Form(
            "knock_on", "what an ablation changes {0} layers above has a cosine of {value} with what the local replacement model says", "the mean cosine, over ablated features, of the change of MLP outputs {0} layers above in the model and in the local replacement model",
            "-1 to 1", ("faithfulness",), "layer", (1, 1), controls=("random",),
        ),
        Form(
            "gradient_match", "the gradients of model and local replacement model have a cosine of {value}", "the cosine of the gradients of the most probable token's logit, by the embeddings, in the model and in the local replacement model",
            "-1 to 1", ("faithfulness",), controls=("random",),
        ),
        # composition of graphs (validation/structure.py)
        Form(
            "abstract_middle", "features of neither the input nor the output tier have {value} more of the influence in the middle layers than in the outer ones", "the share of the influence that features of neither the input nor the output tier have in the middle third of the layers, minus that in the outer thirds",
            "share, -1 to 1", ("structure",), controls=("shuffle",),
        ),
        Form("closed", "{value} of the pairs of edges in a row are closed by a direct one", "of pairs of edges in a row (a to b to c) of the pruned graph, the share that an edge from a to c closes", SHARE, ("structure",), controls=("shuffle",)),
        Form("coherent", "the direct edge has the sign of the way around in {value} of these", "of closed pairs of edges, the share in which the direct edge has the sign of the product of the two", SHARE, ("structure",), controls=("shuffle",)),
        Form("layers_skipped", "{value} of what features take in from features skips a layer at least", "the share of what features take in from features, weighted by their influence, that comes from more than one layer below", SHARE, ("structure",), controls=()),
        Form("last_layer_push", "features of the last layer push the most probable token by {value} of all that they add to it", "what features of the last layer add to the most probable token, over the sum of the sizes of what each adds", "share, -1 to 1", ("structure",), controls=()),
        Form("last_layer_beyond", "features of the last layer push it by {value} more than those of other layers", "the same of the last layer, minus that of all other layers", "share, -2 to 2", ("structure",), controls=()),
        Form("scaffold", "features that are active on nearly all prompts of the template have {value} of the influence", "the share of the influence of features that those have which are active on nine of ten prompts of the same template", SHARE, ("structure",), controls=("match",)),
        # operand plots (operand_tables.py)
        Form("share", "features of the family {0} carry {value} of the influence on the answer", "the share of the influence on the answer that features of the family {0} carry at the last token", SHARE, ("classes",), "family", (1, 1)),
        Form("class_share", "add-functions, lookups and sums carry {value} of the influence on the answer", "the share of the influence on the answer that the families add, lookup and sum carry", SHARE, ("classes",)),
        Form(
            "class_writing", "add-functions, lookups and sums add {value} of what is added directly to the answer", "what the families add, lookup and sum add directly to the answer's logit at the last token, over the sum of the sizes of what each feature and error adds there",
            "share, -1 to 1", ("classes",),
        ),
        Form("class_fraction", "{value} of the active features are add-functions, lookups and sums", "the share of active features that are of the families add, lookup and sum", SHARE, ("classes",)),
        Form("lookup_present", "a lookup is active on {value} of the prompts", "whether a lookup is active at the last token", ONE, ("classes",)),
        Form("decimal_share", "conditions that repeat as ten does carry {value} of the influence of these families", "of the influence of these families, the share of conditions that repeat as ten does", SHARE, ("classes",)),
        Form("dozenal_share", "conditions that repeat as twelve does carry {value} of the influence of these families", "of the influence of these families, the share of conditions that repeat as twelve does", SHARE, ("classes",)),
        Form("label_wrong", "the strongest examples suggest the wrong family for {value} of lookups and sums", "the share of lookups and sums whose strongest examples suggest the other family", SHARE, ("classes",)),
        Form(
            "auc_virtual", "virtual weights tell the right targets from others with an area under the curve of {value}", "how well virtual weights tell the targets that fire at the prompt's sum from others", "area under the curve, 0.5 at chance",
            ("wiring",),
        ),
        Form(
            "auc_twera", "weighted by how often both ends fire together, they do so with an area under the curve of {value}", "how well virtual weights, times how often both ends fire together, tell them from others", "area under the curve, 0.5 at chance",
            ("wiring",),
        ),
        Form(
            "input", "{1} takes in {value} of its input from {0}", "what features of the family {1} take in from those of the family {0}, as a share of all that they take in",
            "share, -1 to 1", ("connectivity",), "family", (2, 2), ">",
        ),
        # what is reused (operand_tables.py)
        Form(
            "shared_activity", "{value} of the activity on the plain prompt is there too", "the share of the supernode's activity on the plain prompt that is there too",
            SHARE, ("reuse",),
        ),
        Form(
            "shared_writing", "the supernode writes {value} of what the MLPs write on the plain prompt", "the share of what the MLPs write on the plain prompt, beyond their mean over plain prompts, that the supernode found there writes on this prompt",
            SHARE, ("reuse",),
        ),
        # what languages share (sharing.py)
        Form(
            "overlap", "active features of layer {0} overlap by {value} more than chance", "the overlap of active features in layer {0} with those of translations, above chance", "share, -1 to 1",
            ("sharing", "scale"), "layer", (1, 1), controls=("shuffle",),
        ),
        Form(
            "overlap_profile", "the middle layers share {value} more than the outer ones", "the overlap with translations in the middle third of the layers, minus that in the outer thirds",
            "share, -1 to 1", ("sharing", "scale"), controls=("shuffle",),
        ),
        Form("shared", "{value} of the members are active on the translations", "the share of members that are active on the translations too", SHARE, ("sharing",), controls=("match",)),
        Form(
            "default_written", "together the members promote the answer in {0} better than in other languages by {value}", "how much better what the members write together promotes the answer in {0} than in other languages",
            "standard deviations", ("sharing",), "language", (1, 1), controls=("match",),
        ),
        Form("closeness", "their encoders have a mean cosine of {value}", "the mean cosine of the members' encoders with those of the donor's members", "-1 to 1", ("sharing",), donor=True, controls=("match",)),
        # comparisons of two experiments, or of dose curves (contrasts.py)
        Form("difference", "what is left comes to {value}", "{0} in the first experiment, minus a share of it in the second", "that of the outcome", ("contrast",), "outcome", (1, 1), ","),
        Form("interaction", "the effect on the first outcome less that on the second comes to {value}", "{0} minus {1} in the first experiment, minus a share of the same in the second", "that of the outcomes", ("contrast",), "outcome", (2, 2), ","),
        Form(
            "crossover_cv2", "the strengths at which it takes over have a squared coefficient of variation of {value}", "the squared coefficient of variation, over levels, of the strength at which the swap takes over",
            "squared ratio", ("crossover",),
        ),
        Form(
            "auc_prompts", "they are told apart with an area under the curve of {value}", "of the prompts compared with, the share on which the first outcome of the experiment is smaller (half of those on which it is equal)",
            "area under the curve, 0.5 at chance", ("separation",), beside=("shuffle",),
        ),
    )
}  # fmt: skip
"""Every form of an outcome, by its first word."""


ARGUMENTS = {"family": FAMILIES}
"""Possible arguments, for the types of argument that are the same in all cases."""


class Outcome(Parsed):
    """An outcome as a case file names it."""

    form: Form
    arguments: tuple[str, ...]
    """The parts behind the colon."""

    def __new__(cls, text: str) -> Outcome:
        name, colon, rest = text.partition(":")
        if name not in FORMS:
            raise ValueError(unknown("outcome", text, alike(FORMS, rest)))
        form = FORMS[name]
        found = tuple(rest.split(form.separator)) if colon else ()
        if not form.count[0] <= len(found) <= form.count[1] or not all(found):
            raise ValueError(f"outcome '{text}' is not complete: it is written {form.written}")
        for one in found if form.about in ARGUMENTS else ():
            there = (*ARGUMENTS[form.about], *(("error",) if name == "share" else ()))
            if one not in there:
                raise ValueError(f"outcome '{text}': {unknown(form.about, one, there)}")
        made = super().__new__(cls, text)
        made.form = form
        made.arguments = tuple(Outcome(one) for one in found) if form.about == "outcome" else found
        return made

    @classmethod
    def forms(cls) -> list[dict[str, Any]]:
        return [form.schema for form in FORMS.values()]

    def names(self, about: str) -> list[str]:
        """Its arguments (supernodes, factors, languages, ...), including those of outcomes that it compares."""
        if self.form.about == "outcome":
            return [name for one in self.arguments for name in Outcome(one).names(about)]
        return list(self.arguments) if self.form.about == about else []

    @property
    def meaning(self) -> str:
        told = [Outcome(one).meaning if self.form.about == "outcome" else one for one in self.arguments]
        return self.form.says.format(*([", ".join(told)] if self.form.separator == "+" and told else told))


def alike(forms: list[str] | dict[str, Form], rest: str) -> list[str]:
    """Outcomes that may have been meant, with the given argument filled in, so that the nearest can be copied."""
    return [f"{name}:{rest}" if FORMS[name].about and rest else FORMS[name].written for name in forms]


def forms_of(kind: str, *, line: bool | None = None) -> list[str]:
    """The outcomes that experiments of a kind may measure; with a line, without, or both."""
    return [
        form.name for form in FORMS.values() if (kind in form.kinds if line is None else form.asked_by(kind, line=line))
    ]


def unchanged(outcome: str) -> float | None:
    """The value of an outcome that watches a supernode if nothing changes; None for other outcomes."""
    form = FORMS.get(outcome.partition(":")[0])
    return form.unchanged if form and form.about else None
