"""The interface for a notebook: what `import biology as bio` offers.

    model, transcoders = bio.load("elegans")
    graph = bio.attribute(model, transcoders, "Fact: the capital of the state containing Dallas is")
    case = bio.case("multi_hop")
    nodes = case.supernodes(model, transcoders)
    run = bio.intervene(model, transcoders, graph.prompt, hold={nodes["oakland", "bridge"]: 1})
    run.top(5), bio.matched_controls(run).top(5), case.judge(model, transcoders)["multihop-7"]

Results are frozen records. Each function is a short call of the rooms behind it. User mistakes raise `InputError`s of one line.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from biology.attribution import graph as graphs
from biology.attribution.assembly import attribute as traced
from biology.attribution.graph_json import export_json, how_traced, nodes_table
from biology.attribution.graph_paths import describe, strongest_paths
from biology.attribution.live_effects import FrozenOrLive
from biology.attribution.requests import Explained
from biology.cases.case import Case, load_case
from biology.cases.claim_file import Claim, load_claims
from biology.cli.checking import computed_anew
from biology.cli.opening import of_corpus, open_model, subject
from biology.cli.tracing import target_of
from biology.config import config_file, load_config
from biology.evidence.case_evidence import fresh_context
from biology.grammar import unknown
from biology.graph_files.dialects import parse_graph
from biology.interventions.held_features import DRAWS, HeldFeature, HeldFeatures, hold_features, said, top
from biology.models.model import Model, encode
from biology.models.tokenizer import in_chat
from biology.records import InputError
from biology.report.explorer import graph_page
from biology.supernodes.case_prompts import in_chats
from biology.supernodes.named_members import Supernode, named_supernodes, shipped_members
from biology.tables import read_table
from biology.transcoders.transcoder_set import TranscoderSet
from biology.validation.ablation import agreement

if TYPE_CHECKING:
    from biology.config import Config, ModelConfig


def load(
    model: str | Path, transcoders: str | Path | None = None, *, k: int | str | None = None, rule: str | None = None,
    device: str | None = None, dtype: str | None = None, offload: bool = False, config: str = "config.yaml",
) -> tuple[Model, TranscoderSet]:  # fmt: skip
    """A model with its transcoders. `model` is a name in config.yaml, a known model that was fetched, or a directory.

    `transcoders` is a directory or "neurons". With "neurons" the model's own neurons are the features: at each token and layer `k`
    of them are active (32, or "all"), linearised by `rule` ("half", "frozen", "gradient"). `offload` leaves weights in their files.

    Raises:
        InputError: there is no such model, or its files are not valid.
    """
    given = {"k": k, "rule": rule, "device": device, "dtype": dtype, "offload": offload, "config": config}
    chosen = None if transcoders is None else str(transcoders)
    entry, _ = subject(argparse.Namespace(model=str(model), transcoders=chosen, **given))
    return open_model(entry, Path(), Path(model).name, threads=None)


# Graphs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HtmlView:
    """HTML that a notebook displays."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True, eq=False)
class Attribution:
    """The attribution graph of a prompt. `nodes` and `edges` mark what pruning keeps; before pruning, everything."""

    model: Model
    prompt: str
    graph: graphs.Graph
    nodes: Bool[Tensor, " node"]
    edges: Bool[Tensor, "node node"]

    def scores(self) -> graphs.Scores:
        """Replacement score and completeness score of the whole graph (Circuit Tracing, "Evaluating attribution graphs")."""
        return graphs.scores(self.graph)

    def foretells_ablation(self, transcoders: TranscoderSet) -> float:
        """How far the graph can be trusted on this prompt: Spearman's correlation of its influence with what ablating a sample of its
        features does, everything live. NaN with fewer than two features."""
        return agreement(self.model, transcoders, self.graph.metadata["token_ids"], self.graph)[0]

    def paths(self, n: int = 10) -> list[str]:
        """The strongest paths in words, with their share of the influence on the outputs."""
        return [str(describe(self.graph, path)) for path in strongest_paths(self.graph, n)]

    def prune(self, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> Attribution:
        """The same graph, with only the nodes and edges marked that carry these shares of the influence."""
        nodes, edges = graphs.prune(self.graph, node_threshold, edge_threshold)
        return replace(self, nodes=nodes, edges=edges)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each node kept: kind, layer, position, feature, activation, influence."""
        return pd.DataFrame(nodes_table(self.graph))[self.nodes.cpu().numpy()].reset_index(drop=True)

    def page(self) -> str:
        """The interactive graph as one HTML page, which opens without a network."""
        exported = export_json(
            self.graph,
            self.nodes,
            self.edges,
            slug="graph",
            scan=self.model.name,
            prompt=self.prompt,
            info=how_traced(self.graph),
        )
        return graph_page(parse_graph(json.dumps(exported), "graph"))

    def show(self, height: int = 700) -> HtmlView:
        """The interactive graph inside the notebook."""
        return HtmlView(
            f'<iframe srcdoc="{html.escape(self.page())}" style="width:100%;height:{height}px;border:0"></iframe>'
        )

    def __repr__(self) -> str:
        score = self.scores()
        return (
            f"Attribution({self.prompt!r}: {int(self.nodes.sum())} of {self.graph.n_nodes} nodes, "
            f"replacement score {score.replacement:.2f}, completeness {score.completeness:.2f})"
        )


def attribute(
    model: Model, transcoders: TranscoderSet, prompt: str, targets: Sequence[str] | None = None, *, explain: Explained | None = None,
    attention: FrozenOrLive = "frozen", norms: FrozenOrLive = "frozen", chat: bool = False, max_feature_nodes: int | None = None,
    max_logits: int = 10,
) -> Attribution:  # fmt: skip
    """The attribution graph of a prompt, as `biology trace` makes it.

    It explains `targets`: tokens such as "Austin", differences such as "Austin - Sacramento", features such as "feature 3/120@7"
    (layer/feature@position). Without any, it explains the logits of the most probable next tokens, or (`explain="contrast"`, the default
    for neurons) the first one's logit minus the second one's. With live `attention` or `norms`, edges also hold what runs through
    queries and keys, or through the scales of norms. With `chat` the prompt is a user's message in the model's chat template.

    Raises:
        InputError: a word or target that the model does not know, a graph too large for the memory, or no chat template.
    """
    text = in_chat(model.tokenizer, model.name, prompt, "chat=True") if chat else prompt
    graph = traced(
        model, transcoders, encode(model, text), max_feature_nodes=max_feature_nodes, max_logits=max_logits, attention=attention,
        norms=norms, explain=explain or ("contrast" if transcoders.exact else "logits"),
        targets=None if targets is None else [target_of(model, text, target, -1) for target in targets],
    )  # fmt: skip
    every = torch.ones(graph.n_nodes, dtype=torch.bool)
    return Attribution(model, text, graph, every, graph.adjacency.cpu() != 0)


# Cases ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Verdict:
    """The verdict on one claim for one model, with the numbers of the part that decides it. Here `p` belongs to this claim alone;
    in `verdicts.csv` it is corrected for all claims on a model. Numbers are NaN if no item can be scored."""

    claim: str
    title: str
    verdict: str
    reason: str
    statistic: float
    low: float
    high: float
    threshold: float
    p: float
    n: int
    parts: pd.DataFrame
    """Table `parts`: one row for each measurement that the claim needs."""

    def to_pandas(self) -> pd.DataFrame:
        """The parts of the claim: what was measured, and what was needed."""
        return self.parts.set_index("part")[["verdict", "statistic", "low", "high", "threshold", "n", "checks"]]

    def __repr__(self) -> str:
        return f"{self.claim}, {self.title}: {self.verdict}. {self.reason}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.to_pandas().to_html()}"


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The claims of a case on a model, by name. Each verdict is computed on first use, as `biology check` does, and kept."""

    study: CaseStudy
    model: Model
    transcoders: TranscoderSet
    claims: Mapping[str, Claim]
    known: dict[str, Verdict] = field(default_factory=dict)

    def __getitem__(self, claim: str) -> Verdict:
        """Raises InputError if the case has no claim of this name."""
        if claim not in self.claims:
            raise InputError(unknown("claim", claim, self.claims, f"case {self.study.case.name}"))
        if claim not in self.known:
            self.known[claim] = self.study._computed(self.model, self.transcoders, self.claims[claim])
        return self.known[claim]

    def __iter__(self) -> Iterator[str]:
        return iter(self.claims)

    def __len__(self) -> int:
        return len(self.claims)

    def __repr__(self) -> str:
        return f"Verdicts({self.study.case.name} on {self.model.name}: {', '.join(self.claims)})"


@dataclass(frozen=True, eq=False)
class CaseStudy:
    """A case of the paper: its named prompts, its rules, and the verdicts on its claims."""

    case: Case
    root: Path
    config: str

    @property
    def prompts(self) -> dict[str, str]:
        """The texts of the named prompts."""
        return {name: shown.text for name, shown in self.case.prompts.items()}

    def supernodes(self, model: Model, transcoders: TranscoderSet) -> dict[tuple[str, str], Supernode]:
        """The supernodes of the named prompts, by (prompt, name). A model of config.yaml has them in its shipped tables, if it
        ships any; otherwise they are found now, which runs all selecting prompts of the case."""
        settings, entry = self._settings(model)
        members = None
        if entry is not None and not entry.neurons:
            if transcoders.name == (self.root / entry.transcoders).resolve().name:
                members = shipped_members(self.root, entry, model.name, self.case)
        if members is None:
            members = fresh_context(model, transcoders, self.case, settings.statistics).members
        return named_supernodes(in_chats(model, self.case), members)

    def judge(self, model: Model, transcoders: TranscoderSet) -> Verdicts:
        """The verdicts on the claims of this case, each computed from the weights on first use: `judge(...)["multihop-7"]`. One
        verdict on elegans takes minutes."""
        claims = load_claims(self.root, self.case.name, self.case)
        return Verdicts(self, model, transcoders, {claim.id: claim for claim in claims})

    def _computed(self, model: Model, transcoders: TranscoderSet, claim: Claim) -> Verdict:
        settings, entry = self._settings(model)
        case = self.case
        if entry is not None:
            case = of_corpus(load_case(self.root, case.name, entry.prompts, entry.at_most), entry, self.root)
        found = computed_anew(model, transcoders, case, claim, settings, self.root, entry)
        row = found.verdicts.iloc[0]
        told = {name: row[name] for name in ("verdict", "reason", "statistic", "low", "high", "threshold", "p")}
        return Verdict(claim.id, claim.title, **told, n=int(row["n"]), parts=found.parts)

    def _settings(self, model: Model) -> tuple[Config, ModelConfig | None]:
        """The configuration, and its entry for this model if there is one."""
        settings = load_config(self.config, model.name)
        entry = settings.models.get(model.name)
        return settings, entry if entry and (self.root / entry.path).resolve() == model.path.resolve() else None

    def __repr__(self) -> str:
        return f"CaseStudy({self.case.name}: {len(self.prompts)} named prompts, {len(self.case.items)} in its set)"

    def verdicts(self, model: str) -> pd.DataFrame:
        """The stored verdicts on the claims of this case, for a model of config.yaml (computed by `snakemake figures/all`).

        Raises InputError if the model has not been judged.
        """
        path = self.root / "reports" / model / "verdicts.csv"
        if not path.is_file():
            raise InputError(f"{path}: '{model}' has not been judged: snakemake figures/all --config model={model}")
        table = read_table(path, "verdicts")
        return table[table["case"] == self.case.name].set_index("claim")


def case(name: str, *, config: str = "config.yaml") -> CaseStudy:
    """A case by its folder name in `experiments/`. Without a config.yaml, the cases of the installed package are used.

    Raises:
        InputError: there is no such case.
    """
    path = config_file(config, shipped=True)
    return CaseStudy(load_case(path.parent, name), path.parent, str(path))


# Interventions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Run:
    """A model's next-token probabilities, with features held or without."""

    model: Model
    transcoders: TranscoderSet
    prompt: str
    probabilities: Float[Tensor, " vocab"]
    held: Mapping[tuple[int, int], HeldFeature]
    last_layer: int | None
    at: int | None

    def top(self, n: int = 5) -> list[tuple[str, float]]:
        """The most probable next tokens with their probabilities."""
        return top(self.model, self.probabilities, n)

    def to_pandas(self, n: int = 10) -> pd.DataFrame:
        """The most probable next tokens as a table."""
        return pd.DataFrame(self.top(n), columns=["token", "probability"])

    def __repr__(self) -> str:
        said = ", ".join(f"{token!r} {probability:.1%}" for token, probability in self.top(3))
        return f"Run({self.prompt!r}, {len(self.held)} features held: {said})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.prompt)}, {len(self.held)} features held</p>{self.to_pandas().to_html()}"


def intervene(
    model: Model, transcoders: TranscoderSet, prompt: str, hold: Mapping[Supernode | tuple[int, int], float | int] = {}, *,  # noqa: B006
    last_layer: int | None = None, at: int | None = None,
) -> Run:  # fmt: skip
    """The next-token probabilities with supernodes, or single features (layer, feature), held at multiples of their activations.

    A supernode has the activations of its own prompt. It is held where the case has a supernode of this name on this prompt, else
    at token `at` (default: the last). With `last_layer`, attention patterns are frozen and MLP outputs up to that layer keep their
    clean values, except where features are held (constrained patching, Circuit Tracing). Without it everything is recomputed.

    Raises:
        InputError: no such token or feature, a feature without activation there, or a value too large for the model.
    """
    ids, held = encode(model, prompt), _held(prompt, hold, at)
    pushed = hold_features(model, transcoders, ids, held, at=at)
    probabilities = said(model, transcoders, [ids], pushed.edits, last_layer=last_layer)
    return Run(model, transcoders, prompt, probabilities, held, last_layer, at)


def _held(prompt: str, hold: Mapping[Supernode | tuple[int, int], float | int], at: int | None) -> HeldFeatures:
    held: HeldFeatures = {}
    for what, factor in hold.items():
        if isinstance(what, Supernode):
            place = dict(what.places).get(prompt) if at is None else at
            held |= {
                (layer, feature): HeldFeature(value, place, float(factor), (what.text, what.pos))
                for layer, feature, value in what.features
            }
        else:
            held[what] = HeldFeature(factor=float(factor))
    return held


def matched_controls(run: Run, n: int = DRAWS, *, seed: int = 0) -> Run:
    """The matched control of a run: the mean next-token probabilities over `n` random sets of other active features, with the same
    layers, tokens, number and size of push."""
    ids = encode(run.model, run.prompt)
    control = hold_features(run.model, run.transcoders, ids, run.held, at=run.at).control(n, seed)
    probabilities = said(run.model, run.transcoders, [ids] * n, control, last_layer=run.last_layer)
    return replace(run, probabilities=probabilities)
