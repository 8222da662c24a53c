"""What a model answers to prompts, and how well its transcoders replace its MLPs.

`prompts_table` runs the prompts of a case once; the gate of every claim (does the model answer?) comes from it.
`evaluate` gives the table of held-out behaviours. `fidelity` measures transcoders on held-out prompts: fraction of
variance unexplained, active features, dead features, loss recovered, and whether the replacement model (every MLP
replaced except that of the first position, attention live) gives the same answer.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportReturnType=false

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from biology.cases.case import Case
from biology.models.model import Model, answer_token, encode, run, token_batch, token_text
from biology.records import InputError, InputWarning
from biology.tables import donor_columns, evenly_spaced, table, validate_table
from biology.transcoders.activations import FeatureCache, cache_features, length_batches
from biology.transcoders.splicing import constant, mean_outputs, spliced
from biology.transcoders.transcoder_set import TranscoderSet, reconstruct
from biology.transcoders.transcoder_set import encode as feature_activations

BATCH = 256
MOST_PER_BEHAVIOUR, MOST_OF_LARGE = 1000, 50  # held-out prompts per behaviour on which fidelity is measured
CONSTANT = 1e-12  # of the target's sum of squares: a reconstruction that varies less is one vector, and noise decides its factor
POOR = 0.5  # fraction of variance unexplained above which a layer's scale is doubted


def prompts_table(model: Model, transcoders: TranscoderSet, case: Case) -> tuple[FeatureCache, pd.DataFrame]:
    """Active features of every prompt of a case, and table `prompts`; named prompts come first.

    `correct`: the answer is the most probable token. `correct_with_donor`, for prompts with a donor: this also holds
    for donor and wrong donor (`correct_with_<column>` for each further donor column). If the first tokens of answers
    count (`Case.first_token`), the three first tokens must also differ, or a swap could not be seen. This never applies
    to numbers: a sum that the model writes in several tokens is not `correct`, whatever its first digit. A prompt whose
    column `gated_by` names another prompt is `correct` if that one is.

    Raises InputError for an unknown word or prompt or, unless first tokens count, an answer of several tokens.
    """
    rows: list[dict[str, object]] = [
        {
            "item": name,
            "text": p.text,
            "answer": p.answer,
            "cluster": name,
            "split": p.split,
            "role": "show",
            **p.factors,
        }
        for name, p in case.prompts.items()
    ]
    rows += [
        {
            "item": i.item,
            "text": i.text,
            "answer": i.answer,
            "cluster": i.cluster,
            "split": i.split,
            "role": i.role,
            **i.factors,
        }
        for i in case.items
    ]
    columns = dict.fromkeys(column for row in rows for column in row)
    ids = [_encoded(model, case, row) for row in rows]
    cache = cache_features(model, transcoders, ids, batch_size=BATCH, progress=True)
    probability, top = cache.logits.double().softmax(-1).max(-1)
    by_number = case.first_token and case.operands is not None
    for row, p, token in zip(rows, probability.tolist(), top.tolist(), strict=True):
        answer = answer_token(model, str(row["text"]), str(row["answer"]), first=case.first_token)
        right = token == answer and (not by_number or _whole(model, row))
        row |= {"answer_token": answer, "top1": token_text(model, token), "probability": p, "correct": right}
        for column in columns:
            row.setdefault(column, "")
    frame = pd.DataFrame(rows)
    if "gated_by" in frame:
        frame["correct"] = _gated(case, frame)
    correct = dict(zip(frame["item"], frame["correct"], strict=True)) | {"": True}
    token = dict(zip(frame["item"], frame["answer_token"], strict=True))
    for column in donor_columns(frame):
        named = [name for name in (column, f"wrong_{column}") if name in frame]
        for name in named:
            unknown = [item for item in frame[name] if item not in correct]
            if unknown:
                raise InputError(f"case {case.name}: donor '{unknown[0]}' is not a prompt of the case")
        frame[f"correct_with_{column}"] = [
            all(correct[item] for item in group)
            and (not case.first_token or _all_different([token[item] for item in group if item]))
            for group in frame[["item", *named]].itertuples(index=False)
        ]
    return cache, validate_table(frame, "prompts")


def _whole(model: Model, row: Mapping[str, object]) -> bool:
    """Whether the answer of a prompt is a single token."""
    try:
        answer_token(model, str(row["text"]), str(row["answer"]))
    except InputError:
        return False
    return True


def _gated(case: Case, frame: pd.DataFrame) -> list[bool]:
    own = dict(zip(frame["item"], frame["correct"], strict=True))
    unknown = frame.loc[~frame["gated_by"].isin({*own, ""}), ["item", "gated_by"]]
    if len(unknown):
        item, named = unknown.iloc[0]
        raise InputError(f"case {case.name}, prompt {item}: gated_by '{named}' is not a prompt of the case")
    return [own[gate or item] for item, gate in zip(frame["item"], frame["gated_by"], strict=True)]


def _all_different(tokens: Sequence[int]) -> bool:
    return len(set(tokens)) == len(tokens)


def _encoded(model: Model, case: Case, row: Mapping[str, object]) -> list[int]:
    try:
        answer_token(model, str(row["text"]), str(row["answer"]), first=case.first_token)
        return encode(model, str(row["text"]))
    except InputError as error:
        raise InputError(f"case {case.name}, prompt {row['item']}: {error}") from None


def evaluate(model: Model, frame: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Accuracy on held-out prompts: columns behaviour, accuracy (the answer is the most probable token), n.

    `frame` has columns prompt, answer, behaviour, split (dev or test).
    """
    chosen = frame[frame["split"] == split].reset_index(drop=True)
    ids = [encode(model, prompt) for prompt in chosen["prompt"]]
    answers = np.array([answer_token(model, p, a) for p, a in zip(chosen["prompt"], chosen["answer"], strict=True)])
    top = np.zeros(len(chosen), dtype=np.int64)
    for places, batch in length_batches(ids, BATCH):
        logits, _ = run(model, token_batch(model, batch), positions=-1)
        top[places.numpy()] = logits[:, 0].argmax(-1).cpu().numpy()
    grouped = chosen.assign(right=top == answers).groupby("behaviour", sort=True)["right"]
    return pd.DataFrame({"accuracy": grouped.mean(), "n": grouped.size()}).reset_index()


def fidelity(model: Model, transcoders: TranscoderSet, frame: pd.DataFrame) -> pd.DataFrame:
    """Table `fidelity`: metrics by layer ('all': all layers) and behaviour ('all': all prompts).

    fvu: squared error over variance of the transcoder's target; l0: active features per position; dead: share of
    features that are never active on these prompts; top1_agreement: the replacement model gives the model's answer;
    loss_recovered: 1 - (replacement loss - loss) / (loss with MLPs replaced by their mean output - loss).

    Warns if a layer would explain far more were its outputs scaled by one number: then it may have been read by another convention
    than it was trained by.
    """
    if "split" in frame:
        frame = frame[frame["split"] != "dev"]
    frame = evenly_spaced(frame, MOST_OF_LARGE if model.large else MOST_PER_BEHAVIOUR)
    ids = [encode(model, prompt) for prompt in frame["prompt"]]
    answers = [answer_token(model, p, a, first=True) for p, a in zip(frame["prompt"], frame["answer"], strict=True)]
    layers = range(model.n_layers)
    names = [f"blocks.{layer}.{hook}" for layer in layers for hook in (transcoders.read_hook, transcoders.write_hook)]
    square, total = (torch.zeros(len(frame), model.n_layers, dtype=torch.float64) for _ in range(2))
    active = torch.zeros(len(frame), model.n_layers, dtype=torch.float64)
    tokens = torch.tensor([len(prompt) - 1 for prompt in ids], dtype=torch.float64)
    fired = [torch.zeros(count, dtype=torch.bool) for count in transcoders.n_features]
    mean = mean_outputs(model, transcoders.write_hook, ids, BATCH)
    made_sum = torch.zeros(model.n_layers, model.d_model, dtype=torch.float64)
    made_square, product = torch.zeros(2, model.n_layers, dtype=torch.float64)
    loss = torch.zeros(len(frame), 3, dtype=torch.float64)
    top = torch.zeros(len(frame), 2, dtype=torch.long)
    for places, batch in length_batches(ids, BATCH):
        batch = token_batch(model, batch)
        logits, seen = run(model, batch, reads=names, positions=-1)
        acts = [
            feature_activations(transcoders, layer, seen[f"blocks.{layer}.{transcoders.read_hook}"]) for layer in layers
        ]
        for layer in layers:
            x, y = (seen[f"blocks.{layer}.{hook}"][:, 1:] for hook in (transcoders.read_hook, transcoders.write_hook))
            made = reconstruct(transcoders, layer, [a[:, 1:] for a in acts], x)
            square[places, layer] = (y - made).double().square().sum((1, 2)).cpu()
            total[places, layer] = (y - mean[layer]).double().square().sum((1, 2)).cpu()
            made_sum[layer] += made.double().sum((0, 1)).cpu()
            made_square[layer] += made.double().square().sum().cpu()
            product[layer] += ((y - mean[layer]).double() * made.double()).sum().cpu()
            active[places, layer] = (acts[layer][:, 1:] != 0).double().sum((1, 2)).cpu()
            fired[layer] |= (acts[layer][:, 1:] != 0).flatten(0, 1).any(0).cpu()
        replaced, _ = run(model, batch, edits=spliced(model, transcoders), positions=-1)
        blank, _ = run(
            model, batch, edits=[constant(transcoders.write_hook, layer, mean[layer]) for layer in layers], positions=-1
        )
        wanted = torch.tensor([answers[place] for place in places.tolist()])
        for column, out in enumerate((logits, replaced, blank)):
            loss[places, column] = torch.nn.functional.cross_entropy(out[:, 0].double().cpu(), wanted, reduction="none")
        top[places] = torch.stack([out[:, 0].argmax(-1).cpu() for out in (logits, replaced)], 1)
    made_spread = made_square - made_sum.square().sum(1) / tokens.sum()
    _warn_of_scales(square.sum(0), total.sum(0), made_spread, product)
    rows: list[dict[str, object]] = []
    groups = {"all": np.arange(len(frame))} | {
        str(k): np.asarray(v) for k, v in frame.groupby("behaviour").indices.items()
    }
    for behaviour, places in groups.items():
        at = torch.as_tensor(places)
        for layer in [*map(str, layers), "all"]:
            columns = slice(None) if layer == "all" else [int(layer)]
            count = tokens[at].sum() * (model.n_layers if layer == "all" else 1)
            ratio = square[at][:, columns].sum(0) / total[at][:, columns].sum(0)
            values = {"fvu": float(ratio.mean()), "l0": float(active[at][:, columns].sum() / count)}
            if behaviour == "all":
                chosen = torch.cat(fired) if layer == "all" else fired[int(layer)]
                values["dead"] = 1.0 - float(chosen.double().mean())
            if layer == "all":
                values["top1_agreement"] = float((top[at][:, 0] == top[at][:, 1]).double().mean())
                clean, replacement, mean_loss = loss[at].mean(0).tolist()
                values["loss_recovered"] = 1.0 - (replacement - clean) / (mean_loss - clean)
            rows += [
                {"layer": layer, "behaviour": behaviour, "metric": metric, "value": value}
                for metric, value in values.items()
            ]
    return table("fidelity", rows)


def _warn_of_scales(
    square: Float[Tensor, " layer"],
    total: Float[Tensor, " layer"],
    made: Float[Tensor, " layer"],
    product: Float[Tensor, " layer"],
) -> None:
    """`square`, `total`: sums of squares of the error and of the target about its mean; `made`: of the reconstruction about its own mean;
    `product`: of target times reconstruction. The factor that fits best is product / made."""
    fvu, left = square / total, 1 - product.square() / (made * total)
    left[made < CONSTANT * total] = 1.0
    odd = ((fvu > POOR) & (left < POOR) & (left < fvu / 2)).nonzero().flatten().tolist()
    if odd:
        worst = max(odd, key=lambda layer: float(fvu[layer]))
        warnings.warn(
            f"transcoders of {_layers(odd)} leave much unexplained as they are read: of layer {worst} {float(fvu[worst]):.0%} of the variance, but "
            f"{float(left[worst]):.0%} if its outputs were multiplied by {float(product[worst] / made[worst]):.3g}. They may follow another convention of "
            "scaling inputs or outputs",
            InputWarning,
            stacklevel=3,
        )


def _layers(numbers: Sequence[int]) -> str:
    return f"layer{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def selective_features(
    model: Model, transcoders: TranscoderSet, prompts: pd.DataFrame, at: Mapping[str, str], least: float = 0.9
) -> pd.DataFrame:
    """For each level, the feature that distinguishes it best from all others: columns level, at, layer, feature,
    precision, recall.

    `prompts` has columns prompt and level, and for each name of `at` a column with the text whose last token is read
    (for the prompt's own last token, the whole prompt). Precision is the share of the feature's active prompts that are
    of the level, recall the share of the level's prompts on which it is active. Over all positions and layers, the
    feature with the largest min(precision, recall) is taken. Levels whose best feature is below `least` are left out.
    """
    ids = [encode(model, prompt) for prompt in prompts["prompt"]]
    cache = cache_features(model, transcoders, ids, batch_size=BATCH)
    owner = np.repeat(np.arange(len(ids)), cache.offsets.diff().numpy())
    width = max(transcoders.n_features)
    column = cache.layer.numpy().astype(np.int64) * width + cache.feature.numpy()
    levels, level = np.unique(prompts["level"], return_inverse=True)
    size = np.bincount(level)
    best: dict[str, dict[str, object]] = {}
    for name, words in at.items():
        ends = [prompt.index(word) + len(word) for prompt, word in zip(prompts["prompt"], prompts[words], strict=True)]
        position = np.array([len(encode(model, p[:end])) - 1 for p, end in zip(prompts["prompt"], ends, strict=True)])
        here = cache.pos.numpy() == position[owner]
        hits = np.zeros((len(levels), model.n_layers * width))
        np.add.at(hits, (level[owner[here]], column[here]), 1)
        recall, precision = hits / size[:, None], hits / np.maximum(hits.sum(0), 1)
        score = np.minimum(recall, precision)
        for row, label in enumerate(levels):
            top = int(score[row].argmax())
            if score[row, top] >= least and score[row, top] > best.get(str(label), {"score": 0.0})["score"]:  # type: ignore[operator]
                best[str(label)] = {
                    "level": label, "at": name, "layer": top // width, "feature": top % width,
                    "precision": precision[row, top], "recall": recall[row, top], "score": score[row, top],
                }  # fmt: skip
    columns = ["level", "at", "layer", "feature", "precision", "recall"]
    return pd.DataFrame(best.values(), columns=[*columns, "score"])[columns]
