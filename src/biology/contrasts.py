"""Evidence that is computed from other evidence: one experiment against another, two sizes of a model, where dose curves cross."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from biology.config import InputError, StatisticsConfig
from biology.statistics import bootstrap_interval, generator, resamples
from biology.tables import validate_table

FIXED = {"arm": "effect", "draw": 0, "strength": 1.0}


def contrasts(
    name: str, of: Sequence[str], outcomes: Sequence[str], evidence: pd.DataFrame, share: float = 1.0,
    asked: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Evidence rows that compare two experiments A and B on the same items, arm by arm and draw by draw:

        difference:<o>          A's o minus `share` times B's o
        interaction:<o>,<p>     (A's o - A's p) minus `share` times (B's o - B's p), as in a double dissociation

    With donors from one language as A, donors from the prompt's own as B and a share of 0.8, a mean above zero says that
    less than a fifth is lost. An outcome that an experiment asks for (`asked`, its outcomes) and that is undefined on every
    item has no rows. Raises InputError where an outcome is none, or is measured by one of the two only.
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
    name: str, of: str, outcomes: Sequence[str], evidence: pd.DataFrame, prompts: pd.DataFrame, by: str | None
) -> pd.DataFrame:
    """Evidence rows `crossover_cv`: how much the strength at which the swap `of` takes over varies between levels of `by`.

    The strength of a level is where its mean dose curve of the second-last of the swap's outcomes (what takes over) passes
    that of the last (what gives way); the statistic is the coefficient of variation of these strengths. It is no mean over
    items, so each cluster gets its jackknife pseudo-value, n CV - (n - 1) CV without the cluster: their mean is the
    (bias-corrected) CV, and they go through the same test as every other score. All items of a cluster share its value.
    A level whose curves never cross counts at the largest strength. Raises InputError where dose rows are missing.
    """
    takes_over, gives_way = outcomes[-2:]
    rows = evidence[(evidence["experiment"] == f"{of}/dose") & (evidence["arm"] == "effect")]
    if by not in prompts or not len(rows):
        raise InputError(f"experiment '{name}': needs `by`, a factor, and `of`, an experiment with `dose: true`.")
    wide = rows[rows["outcome"].isin([takes_over, gives_way])].pivot_table(
        index=["item", "cluster", "split", "strength"], columns="outcome", values="value"
    )
    lead = (wide[takes_over] - wide[gives_way]).unstack("strength")
    level = lead.index.get_level_values("item").map(prompts.set_index("item")[by])
    strengths = lead.columns.to_numpy(dtype=float)
    cluster = lead.index.get_level_values("cluster")
    values, names = lead.to_numpy(), sorted(set(cluster))
    everything = variation(values, level, strengths)
    pseudo = {
        one: len(names) * everything - (len(names) - 1) * variation(values[cluster != one], level[cluster != one], strengths)
        for one in names
    }  # fmt: skip
    keys = lead.index.to_frame(index=False)
    return validate_table(
        keys.assign(value=keys["cluster"].map(pseudo), experiment=name, outcome="crossover_cv", **FIXED), "evidence"
    )


def scaled(name: str, of: str, outcomes: Sequence[str], larger: pd.DataFrame, smaller: pd.DataFrame) -> pd.DataFrame:
    """Evidence rows of one experiment on the same items of two models: arm `effect` is the larger's, `smaller` the smaller's.

    Each value is what an outcome is above its own `shuffle` control on that model, so that a model with more, or denser,
    features has no head start. Only items that both tables hold are compared. Raises InputError where an outcome or the
    control was not measured.
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


def crossing(lead: Float[np.ndarray, " strength"], strengths: Float[np.ndarray, " strength"]) -> float:
    """The first strength at which a lead is positive, linear in between; the first or the last if it always or never is."""
    above = np.flatnonzero(lead > 0)
    if not len(above):
        return float(strengths[-1])
    after = int(above[0])
    if after == 0:
        return float(strengths[0])
    low, high = lead[after - 1], lead[after]
    return float(strengths[after - 1] + (strengths[after] - strengths[after - 1]) * -low / (high - low))


def variation(
    values: Float[np.ndarray, "item strength"], level: pd.Index, strengths: Float[np.ndarray, " strength"]
) -> float:
    """Coefficient of variation, over levels, of the strength at which the level's mean curve crosses zero."""
    found = [crossing(values[level == one].mean(0), strengths) for one in sorted(set(level))]
    return float(np.std(found, ddof=1) / np.mean(found)) if len(found) > 1 else 0.0


def stream_contrasts(measured: pd.DataFrame, statistics: StatisticsConfig) -> pd.DataFrame:
    """For each case and stream the layer that development prompts choose, and what held-out prompts then say.

    Columns: layer, n (held-out prompts), rate (the expected answer is said), wrong (the same with a wrong donor, or at another
    position), their difference with its 95 % interval over clusters.
    """
    made = []
    for (case, stream), rows in measured.groupby(["case", "stream"], sort=True):
        wide = rows.pivot_table(index=["split", "cluster", "item", "layer"], columns="arm", values="value")
        control = "donor" if "donor" in wide else "position"
        score = wide["effect"] - wide[control]
        if not {"dev", "heldout"} <= set(score.index.get_level_values("split")):
            continue  # a model that answers too little
        layer = int(score.loc["dev"].groupby("layer").mean().idxmax())
        held = wide.xs("heldout", level="split").xs(layer, level="layer")
        clusters = (held["effect"] - held[control]).groupby("cluster").mean().to_numpy()[:, None]
        draws = resamples(len(clusters), statistics.bootstrap, generator(statistics.seed, "streams", case, stream))
        low, high = bootstrap_interval(clusters, draws)[:, 0]
        made.append(
            {
                "case": case, "stream": stream, "layer": layer, "n": len(held), "rate": held["effect"].mean(),
                "wrong": held[control].mean(), "difference": clusters.mean(), "low": low, "high": high,
            }
        )  # fmt: skip
    return pd.DataFrame(made, columns=["case", "stream", "layer", "n", "rate", "wrong", "difference", "low", "high"])
