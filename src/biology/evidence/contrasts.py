"""Evidence computed from other evidence: differences of two experiments or of two model sizes, crossings of dose
curves, how well two kinds of prompts are told apart, and whether the signs of edges predict effects."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from biology.cases.case import Case
from biology.cases.claim_file import Claim
from biology.cases.experiments import Contrast, Crossover, Scale, Separation, Signs
from biology.cases.perturbations import Inhibit
from biology.config import StatisticsConfig
from biology.records import InputError
from biology.statistics import METHOD, bootstrap_interval, generator, resamples
from biology.tables import table, validate_table

FIXED = {"arm": "effect", "draw": 0, "strength": 1.0}


def computed(
    case: Case, claims: Sequence[Claim], evidence: pd.DataFrame, edges: pd.DataFrame, prompts: pd.DataFrame,
    sizes: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> list[pd.DataFrame]:  # fmt: skip
    """Tables `evidence` of a case's computed experiments.

    `evidence` is that of all other experiments. `sizes` is the evidence of the larger and the smaller of two models;
    without it no experiment of kind `scale` is computed.
    """
    made = []
    for name, experiment in case.experiments.items():
        if isinstance(experiment, Contrast | Crossover | Separation) and not bool(
            evidence["experiment"].isin(experiment.of).any()
        ):
            continue  # no prompt passed the gate, so there is nothing to compare
        if isinstance(experiment, Contrast):
            asked = {other: case.experiments[other].outcomes for other in experiment.of}
            made.append(contrasts(name, experiment.of, experiment.outcomes, evidence, experiment.share, asked))
        elif isinstance(experiment, Crossover):
            of, gate = experiment.of[0], gate_of(name, claims)
            made.append(crossovers(name, of, case.experiments[of].outcomes, evidence, prompts, experiment.by, gate))
        elif isinstance(experiment, Separation):
            outcome = case.experiments[experiment.of[0]].outcomes[0]
            made.append(
                separations(name, experiment.of[0], outcome, evidence, prompts, experiment.only, experiment.against)
            )
        elif isinstance(experiment, Signs):
            inhibited = {other: one.inhibit for other, one in case.of_kind(Inhibit).items() if other in experiment.of}
            made.append(sign_agreement(name, inhibited, edges, evidence))
        elif isinstance(experiment, Scale) and sizes is not None:
            made.append(scaled(name, experiment.of[0], experiment.outcomes, *sizes))
    return made


def contrasts(
    name: str, of: Sequence[str], outcomes: Sequence[str], evidence: pd.DataFrame, share: float = 1.0,
    asked: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Evidence rows that compare two experiments A and B on the same items, arm by arm and draw by draw:

        difference:<o>          A's o minus `share` times B's o
        interaction:<o>,<p>     (A's o - A's p) minus `share` times (B's o - B's p), as in a double dissociation

    Example: A takes donors from one language, B from the prompt's own, and `share` is 0.8. A mean above zero then says
    that less than a fifth is lost. An outcome that an experiment measures (`asked`) but that is undefined on every item
    gives no rows. Raises InputError for an unknown outcome, or one that only one of the two experiments measures.
    """
    rows = evidence[evidence["experiment"].isin(of)]
    index = ["item", "cluster", "split", "arm", "draw"]
    wide = rows.pivot_table(index=index, columns=["experiment", "outcome"], values="value", sort=True)
    made = []
    for outcome in outcomes:
        kind, _, rest = outcome.partition(":")
        terms = list(zip((1.0, -1.0), rest.split(","), strict=False))
        if len(of) != 2 or {"difference": 1, "interaction": 2}.get(kind) != rest.count(",") + 1:
            raise InputError(
                f"experiment '{name}': unknown outcome '{outcome}' of a contrast of {', '.join(of) or 'none'}."
            )
        for experiment, (_, term) in itertools.product(of, terms):
            if (experiment, term) not in wide and term in (asked or {}).get(experiment, ()):
                wide[experiment, term] = np.nan
            elif (experiment, term) not in wide:
                raise InputError(f"experiment '{name}': '{experiment}' does not measure '{term}'.")
        first, second = (sum(sign * wide[experiment, term] for sign, term in terms) for experiment in of)
        value = first - share * second
        made.append(value.dropna().rename("value").reset_index().assign(outcome=outcome))
    fixed = {"experiment": name, "strength": 1.0}
    return validate_table(pd.concat(made, ignore_index=True).assign(**fixed), "evidence")


def crossovers(
    name: str,
    of: str,
    outcomes: Sequence[str],
    evidence: pd.DataFrame,
    prompts: pd.DataFrame,
    by: str | None,
    gate: str,
) -> pd.DataFrame:
    """Evidence rows `crossover_cv2`: how much the strength at which the swap `of` takes over varies between levels of
    `by`.

    The last two outcomes of the swap are what takes over and what gives way. The strength of a level is where its mean
    dose curve of the first passes that of the second, over the prompts that pass `gate`; if the curves never cross it
    is the largest strength. The statistic is the squared coefficient of variation of these strengths
    (`squared_variation`). It is not a mean over items: all items of a cluster share its score. A level with prompts in
    only one cluster is left out, since its chance variation is unknown. With fewer than two levels there are no rows.
    Raises InputError if dose rows or the gate are missing.
    """
    takes_over, gives_way = outcomes[-2:]
    rows = evidence[(evidence["experiment"] == f"{of}/dose") & (evidence["arm"] == "effect")]
    if by not in prompts or not len(rows):
        raise InputError(f"experiment '{name}': needs `by`, a factor, and `of`, an experiment with `dose: true`.")
    if gate not in prompts or prompts[gate].dtype != bool:
        raise InputError(f"experiment '{name}': gate '{gate}' is not a column of true and false in table 'prompts'.")
    rows = rows[rows["outcome"].isin([takes_over, gives_way]) & rows["item"].isin(prompts.loc[prompts[gate], "item"])]
    wide = rows.pivot_table(index=["item", "cluster", "split", "strength"], columns="outcome", values="value")
    if not len(wide):
        return table("evidence", [])
    lead = (wide[takes_over] - wide[gives_way]).unstack("strength")
    keys = lead.index.to_frame(index=False)
    level = keys["item"].map(prompts.set_index("item")[by])
    items = pd.crosstab(keys["cluster"], level)
    items = items.loc[:, (items > 0).sum() > 1]
    if items.shape[1] < 2:
        return table("evidence", [])
    sums = np.zeros((*items.shape, lead.shape[1]))
    for i, one in enumerate(items.index):
        for j, other in enumerate(items):
            sums[i, j] = lead.to_numpy()[(keys["cluster"] == one) & (level == other)].sum(0)
    scores = squared_variation(sums, items.to_numpy(), lead.columns.to_numpy(dtype=float))
    value = keys["cluster"].map(dict(zip(items.index, scores, strict=True)))
    return validate_table(keys.assign(value=value, experiment=name, outcome="crossover_cv2", **FIXED), "evidence")


def separations(
    name: str, of: str, outcome: str, evidence: pd.DataFrame, prompts: pd.DataFrame, only: Mapping[str, str],
    against: Mapping[str, str],
) -> pd.DataFrame:  # fmt: skip
    """Evidence rows `auc_prompts` of the prompts with the levels `only`: of the prompts of their split with the levels
    `against`, the share on which `of` measured less of `outcome`, ties counting half. Its mean is the area under the ROC
    curve. Arm `shuffle` is what is to be expected when the prompts' levels are shuffled: one half. Without prompts to
    compare with there are no rows.
    """
    rows = evidence[(evidence["experiment"] == of) & (evidence["outcome"] == outcome) & (evidence["arm"] == "effect")]
    mean = rows.groupby(["item", "cluster", "split"], sort=True)["value"].mean().reset_index()
    levels = prompts.set_index("item").reindex(mean["item"])

    def having(wanted: Mapping[str, str]) -> np.ndarray:
        return np.all([(levels[factor] == level).to_numpy() for factor, level in wanted.items()], axis=0)

    mine, others = mean[having(only)], mean[having(against)]
    made = []
    for split, asked in mine.groupby("split", sort=True):
        rest = np.sort(others.loc[others["split"] == split, "value"].to_numpy())
        if not len(rest):
            continue
        value = asked["value"].to_numpy()
        below = np.searchsorted(rest, value, "left") + np.searchsorted(rest, value, "right")
        made += [
            asked.assign(arm=arm, value=one) for arm, one in (("effect", below / (2 * len(rest))), ("shuffle", 0.5))
        ]
    if not made:
        return table("evidence", [])
    fixed = {"experiment": name, "draw": 0, "strength": 1.0, "outcome": "auc_prompts"}
    return validate_table(pd.concat(made, ignore_index=True).assign(**fixed), "evidence")


def gate_of(name: str, claims: Sequence[Claim]) -> str:
    """The gate of the claims that ask for an experiment with one statistic for all prompts.

    Raises InputError if their gates differ, as each gate would give another number.
    """
    gates = {claim.gate: claim.id for claim in claims for part in claim.parts if part.experiment == name}
    if len(gates) > 1:
        told = ", ".join(f"{gate} ({claim})" for gate, claim in gates.items())
        raise InputError(
            f"experiment '{name}' gives one number for all prompts, but the gates of its claims differ: {told}."
        )
    return next(iter(gates), "correct")


def scaled(name: str, of: str, outcomes: Sequence[str], larger: pd.DataFrame, smaller: pd.DataFrame) -> pd.DataFrame:
    """Evidence rows of one experiment on the same items of two models: arm `effect` is the larger model's, `smaller`
    the smaller one's.

    Each value is an outcome minus its own `shuffle` control on that model, so that a model with more, or denser,
    features has no advantage. Only items in both tables are compared. Raises InputError if an outcome or the control
    was not measured.
    """
    made = []
    for outcome in outcomes:
        excess = {}
        for arm, evidence in (("effect", larger), ("smaller", smaller)):
            rows = evidence[(evidence["experiment"] == of) & (evidence["outcome"] == outcome)]
            wide = rows.pivot_table(index=["item", "cluster", "split"], columns="arm", values="value", sort=True)
            if not {"effect", "shuffle"} <= set(wide):
                raise InputError(
                    f"experiment '{name}': '{of}' does not measure '{outcome}' with the control 'shuffle'."
                )
            excess[arm] = wide["effect"] - wide["shuffle"]
        both = pd.DataFrame(excess).dropna().rename_axis(columns="arm").stack().rename("value")
        made.append(both.reset_index().assign(outcome=outcome))
    fixed = {"experiment": name, "draw": 0, "strength": 1.0}
    return validate_table(pd.concat(made, ignore_index=True).assign(**fixed), "evidence")


def sign_agreement(name: str, of: Mapping[str, str], edges: pd.DataFrame, evidence: pd.DataFrame) -> pd.DataFrame:
    """Evidence rows: do the graph's signs predict what inhibiting supernodes does to others and to the answer?

    `of` maps experiments to the supernode that each inhibits. A pair is (inhibited supernode, watched supernode or
    answer). Its sign in the graph is that of the signed influence, and an inhibition should move the target the other
    way. An item's value is the mean over its pairs of +1 (as predicted), -1 (the opposite) or 0 (nothing moved). Arm
    `shuffle` is the expected value when the item's signs are permuted among its pairs. If nearly all influences are
    positive and nearly all targets fall, the signs predict nothing about single pairs.
    """
    rows = evidence[evidence["experiment"].isin(of)]
    effect = rows[rows["arm"] == "effect"]
    watched = effect[effect["outcome"].str.startswith("activation:")]
    changes = watched.assign(target=watched["outcome"].str.removeprefix("activation:"), change=watched["value"] - 1.0)
    logit = effect[effect["outcome"] == "answer_logit"]
    clean = rows[(rows["arm"] == "clean") & (rows["outcome"] == "answer_logit")]
    before = clean.set_index(["item", "experiment"])["value"]
    pairs = pd.MultiIndex.from_frame(logit[["item", "experiment"]])
    logit = logit.assign(target="answer", change=logit["value"] - before.reindex(pairs).to_numpy())
    changes = pd.concat([changes, logit])
    changes["source"] = changes["experiment"].map(of)
    joined = changes.merge(edges[["item", "source", "target", "influence"]], on=["item", "source", "target"])
    joined = joined[joined["influence"] != 0]
    moved = np.where(joined["change"].abs() > 1e-6, np.sign(joined["change"]), 0.0)
    joined = joined.assign(foretold=-np.sign(joined["influence"]), moved=moved)
    joined["effect"] = joined["foretold"] * joined["moved"]
    means = joined.groupby(["item", "cluster", "split"], sort=True)[["effect", "foretold", "moved"]].mean()
    arms = pd.DataFrame({"effect": means["effect"], "shuffle": means["foretold"].mul(means["moved"])})
    value = arms.rename_axis(columns="arm").stack().rename("value").reset_index()
    fixed = {"experiment": name, "draw": 0, "strength": 1.0, "outcome": "agreement"}
    return validate_table(value.assign(**fixed), "evidence")


def crossing(
    lead: Float[np.ndarray, "*any strength"], strengths: Float[np.ndarray, " strength"]
) -> Float[np.ndarray, "*any"]:
    """The strength at which a lead first becomes positive, by linear interpolation; the first or last strength if it
    always or never is."""
    above = lead > 0
    after = np.maximum(above.argmax(-1), 1)
    low, high = (np.take_along_axis(lead, place[..., None], -1)[..., 0] for place in (after - 1, after))
    rise = np.where(high > low, high - low, 1.0)  # avoids division by zero where the result is not used
    at = strengths[after - 1] + (strengths[after] - strengths[after - 1]) * -low / rise
    return np.where(above[..., 0], strengths[0], np.where(above.any(-1), at, strengths[-1]))


def squared_variation(
    sums: Float[np.ndarray, "cluster level strength"],
    items: Int[np.ndarray, "cluster level"],
    strengths: Float[np.ndarray, " strength"],
) -> Float[np.ndarray, " cluster"]:
    """Scores of clusters. Their mean estimates the squared coefficient of variation, between levels, of the crossing
    strength.

    `sums` are the sums of leads over a cluster's items of a level, `items` the numbers of these items. A plain
    coefficient of variation is positive even if all levels cross at one strength, because of chance. So let P be the
    jackknife pseudo-values [cluster, level] of the levels' crossings, each divided by the mean over levels, minus 1.
    The estimate is the mean of P_i . P_j / (levels - 1) over pairs of different clusters, in which chance cancels (a
    U-statistic, Hoeffding, *A Class of Statistics with Asymptotically Normal Distribution*, 1948). To that order it is
    unbiased: if nothing varies, it is below zero about as often as above.

    Its variance has two parts. The first is the variance, between clusters, of a cluster's mean over the other
    clusters. It vanishes if nothing varies. The second remains, 2 tr(C C) / clusters^2 with C the covariance of P /
    sqrt(levels - 1), and single clusters do not show it. Scores are spread about their mean so that their variance is
    the sum of both. With few clusters, the estimate of the first part is small exactly when the estimate of the whole
    is.
    """
    n = len(sums)

    def relative(total: np.ndarray, number: np.ndarray) -> np.ndarray:
        at = crossing(total / number[..., None], strengths)
        return at / at.mean(-1, keepdims=True) - 1

    rest = relative(sums.sum(0) - sums, items.sum(0) - items)
    pseudo = (n * relative(sums.sum(0), items.sum(0)) - (n - 1) * rest) / np.sqrt(items.shape[1] - 1)
    others = (pseudo.sum(0) - pseudo) / (n - 1)
    estimate = float((pseudo * others).sum(1).mean())
    scores = 2 * (pseudo * others).sum(1) - estimate
    seen = scores.var(ddof=1) / n
    unseen = 2 * (np.cov(pseudo.T) ** 2).sum() / n**2
    return estimate + (scores - estimate) * np.sqrt(1 + unseen / seen) if seen > 0 else scores


def stream_contrasts(measured: pd.DataFrame, statistics: StatisticsConfig) -> pd.DataFrame:
    """For each case and stream, the layer chosen on development prompts, and the result on held-out prompts.

    Columns: layer, n (held-out prompts), rate (the expected answer is given), wrong (the same with a wrong donor, or at
    another position), their difference with its 95 % interval over clusters, and the method of that interval
    (`statistics.METHODS`).
    """
    made = []
    for (case, stream), rows in measured.groupby(["case", "stream"], sort=True):
        wide = rows.pivot_table(index=["split", "cluster", "item", "layer"], columns="arm", values="value")
        control = "donor" if "donor" in wide else "position"
        score = wide["effect"] - wide[control]
        if not {"dev", "heldout"} <= set(score.index.get_level_values("split")):
            continue  # the model answers too few prompts
        layer = int(score.loc["dev"].groupby("layer").mean().idxmax())
        held = wide.xs("heldout", level="split").xs(layer, level="layer")
        clusters = (held["effect"] - held[control]).groupby("cluster").mean().to_numpy()[:, None]
        draws = resamples(len(clusters), statistics.bootstrap, generator(statistics.seed, "streams", case, stream))
        low, high = bootstrap_interval(clusters, draws)[:, 0]
        made.append(
            {
                "case": case, "stream": stream, "layer": layer, "n": len(held), "rate": held["effect"].mean(),
                "wrong": held[control].mean(), "difference": clusters.mean(), "low": low, "high": high,
                "method": METHOD,
            }
        )  # fmt: skip
    columns = ["case", "stream", "layer", "n", "rate", "wrong", "difference", "low", "high", "method"]
    return pd.DataFrame(made, columns=columns)
