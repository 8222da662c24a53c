"""Commands that train transcoders for a model of your own: sample a text from it, train on a text, measure on held-out text."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biology import artefacts
from biology.cli import growth
from biology.cli.arguments import writable_file, writable_folder
from biology.cli.opening import configuration, start_torch
from biology.folders import STAGED, claim, locked, replaced

if TYPE_CHECKING:
    from biology.dictionaries.cross_layer_training import CrossLayerRecipe
    from biology.dictionaries.dictionary_training import DictionaryRecipe
    from biology.models.model import Model

Arguments = argparse.Namespace
THREADS = 1
"""Threads of training: the same text, seed and threads give the same weights."""
NEEDS_TEXT = ("features", "tokens", "steps", "batch", "l0", "sparsity", "context", "memory", "device", "dtype")
WORK = ".training"
"""Folder of checkpoints inside the output folder; deleted when training is done."""
RECORD, CARD = "record.json", "README.md"
COMMAND = "train-transcoders"


def sample(args: Arguments) -> None:
    """write a text sampled from a model, to train its transcoders on"""
    out = writable_file(Path(args.out))
    start_torch(THREADS)
    import torch

    from biology.dictionaries.documents import END
    from biology.dictionaries.sampling import samples
    from biology.models.bridge import ARCHITECTURES

    dtype = getattr(torch, args.dtype or "float32")
    drawn = samples(
        _directory(args), tuple(ARCHITECTURES), tokens=args.tokens, seed=args.seed, length=args.context,
        device=_device(args), dtype=dtype,
    )  # fmt: skip
    artefacts.write_text(out, "".join(f"{text.strip()}\n{END}\n" for text in drawn))


def train_transcoders(args: Arguments) -> None:
    """train transcoders of any model on a text (--model, --text), or those of elegans on its corpus"""
    from biology.records import InputError

    if args.text:
        if not args.model or not args.out:
            raise InputError("train-transcoders --text FILE also needs --model DIR and --out DIR.")
        _train_on_text(args)
        return
    given = [name for name in ("model", *NEEDS_TEXT) if getattr(args, name) is not None]
    if given:
        raise InputError(
            f"--{given[0]} needs --text FILE: without it, elegans is trained on its corpus by its own recipe."
        )
    if args.kind == "skip":
        raise InputError("--kind skip needs --model DIR and --text FILE: elegans has no skip transcoders.")
    growth.train_transcoders(args)


def _train_on_text(args: Arguments) -> None:
    """Resumes where it was interrupted. A finished set is replaced as a whole, and only by one with the same settings."""
    out = writable_folder(Path(args.out))
    start_torch(THREADS)
    import torch

    from biology.dictionaries.cross_layer_training import CrossLayerRecipe, train_cross_layer_set
    from biology.dictionaries.dictionary_metrics import Passages, measure, most_tokens
    from biology.dictionaries.dictionary_training import train_set
    from biology.dictionaries.documents import HELD_OUT, read
    from biology.dictionaries.training_memory import plan, require, tokens_that_fit
    from biology.models.freezing import self_test
    from biology.models.model import load_model
    from biology.organisms.cards import transcoder_card
    from biology.transcoders.layouts import WRITTEN
    from biology.transcoders.transcoder_files import load_transcoders, save_transcoders

    started, cpu = time.monotonic(), time.process_time()
    path, dtype, owned = _directory(args), args.dtype or "float32", (*WRITTEN, HELD_OUT, RECORD, CARD, f"{WORK}/")
    claim(out, owned, COMMAND)
    _refuse_another(out, {"kind": args.kind, "seed": args.seed})
    model = load_model(path, device=_device(args), dtype=getattr(torch, dtype))
    self_test(model)
    recipe, context = _recipe(args, model), args.context or min(256, model.n_context)
    files = [Path(name) for name in args.text]
    documents = read(model, files, context=context, tokens=args.tokens)
    pool = tokens_that_fit(model, int((2.0 if args.memory is None else args.memory) * 2**30))
    pools = min(len(documents.train), -(-documents.train.size // pool))
    budget = plan(
        model, cross_layer=args.kind == "clt", skip=args.kind == "skip", n_features=recipe.n_features,
        batch=recipe.batch, pool=-(-documents.train.size // pools),
    )  # fmt: skip
    print(budget.text(), file=sys.stderr)
    require(budget, model.device)

    import numpy as np

    order = np.random.default_rng(args.seed).permutation(len(documents.train))
    identity = {
        "model": artefacts.contents_hash(path, "*.safetensors")[:16],
        "text": documents.digest(),
        "pools": str(pools),
    }
    computed = {"dtype": dtype, "device": str(model.device)}
    _refuse_another(out, {"recipe": asdict(recipe), **identity, **computed})
    shared: dict[str, Any] = {
        "storage": torch.float32, "pools": pools, "ignored": model.bos_token, "work": out / WORK,
        "identity": identity | computed,
    }  # fmt: skip
    resumed = any((out / WORK).glob("checkpoint*.safetensors"))
    sequences, busy = documents.train[order].tolist(), f"another `biology {COMMAND}` works in {out}: wait for it"
    with locked(out / WORK / "lock", busy), replaced(out, owned, COMMAND) as new:
        if isinstance(recipe, CrossLayerRecipe):
            trained = train_cross_layer_set(model, sequences, recipe, args.seed, **shared)
        else:
            trained = train_set(model, sequences, recipe, args.seed, **shared)
        layout = "circuit-tracer" if args.kind == "clt" else "saelens"
        save_transcoders(new, trained, layout=layout, model_name=model.name)
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        stored = load_transcoders(new, model)
        held_out = documents.held_out[: max(1, most_tokens(model) // context)]
        measured = measure(model, stored, Passages.of_text(held_out, model.bos_token))
        texts = [{"name": file.name, "sha256": artefacts.contents_hash(file.parent, file.name)[:16]} for file in files]
        record = {
            "kind": args.kind,
            "model": model.name,
            "architecture": model.architecture,
            "text": texts,
            "tokens": {"train": documents.train.size, "held_out": documents.held_out.size, "context": context},
            "unknown": documents.unknown,
            "recipe": asdict(recipe),
            "recipe_hash": recipe.hash(),
            "seed": args.seed,
            "threads": THREADS,
            **computed,
            "torch": torch.__version__,
            "identity": identity,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "resumed": resumed,
            "features": list(stored.n_features),
            "measured": _nested(measured.dictionary),
        }
        card = transcoder_card(record)
        artefacts.write_columns(new / HELD_OUT, {"ids": documents.held_out.tolist()})
        artefacts.write_json(new / RECORD, record)
        artefacts.write_text(new / CARD, card)
    print(card.partition("## Recipe")[0].partition("# ")[2])


def _refuse_another(out: Path, planned: Mapping[str, Any]) -> None:
    """Raises `InputError` if `out` holds transcoders, or checkpoints, of a training with other settings."""
    from biology.records import InputError

    advice = "name another --out, or delete this folder"
    entries = {path.name for path in out.iterdir()} - {WORK, STAGED} if out.is_dir() else set()
    if entries and not (out / RECORD).is_file():
        raise InputError(f"{out} holds {min(entries)} but no {RECORD} of a training: {advice}.")
    if entries:
        try:
            record = json.loads((out / RECORD).read_text(encoding="utf-8"))
            found = {**record, **record["identity"], "model": record["identity"]["model"]}
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{out / RECORD} is not a record of `biology {COMMAND}`: {advice}.") from None
        for key, value in planned.items():
            if found.get(key) != json.loads(json.dumps(value)):
                raise InputError(
                    f"{out} holds the {found.get('kind')} transcoders of another training, by its {RECORD} "
                    f"({key}: {found.get(key)}): {advice}."
                )
    others = "checkpoint_*.safetensors" if planned.get("kind") == "clt" else "checkpoint.safetensors"
    if "kind" in planned and any((out / WORK).glob(others)):
        raise InputError(f"{out / WORK} holds checkpoints of another kind than {planned['kind']}: {advice}.")


def _recipe(args: Arguments, model: Model) -> DictionaryRecipe | CrossLayerRecipe:
    from biology.dictionaries.cross_layer_training import CrossLayerRecipe
    from biology.dictionaries.dictionary_training import DictionaryRecipe
    from biology.records import InputError

    if args.context is not None and args.context > model.n_context:
        raise InputError(f"--context {args.context}: {model.name} reads 2 to {model.n_context} tokens.")
    if args.sparsity is not None and args.kind != "clt":
        raise InputError("--sparsity is the penalty of cross-layer transcoders: with plt and skip give --l0.")
    features, l0 = args.features or max(1024, 8 * model.d_model), args.l0 or 16
    if l0 >= features:
        raise InputError(f"--l0 {l0} must be smaller than the {features} features of a layer.")
    sizes: dict[str, Any] = {"n_features": features, "n_features_first": features, "answering": 0.0}
    sizes |= {name: getattr(args, name) for name in ("steps", "batch") if getattr(args, name) is not None}
    if args.kind == "clt":
        sizes |= {} if args.sparsity is None else {"sparsity": args.sparsity}
        return CrossLayerRecipe(most_active=float(l0), **sizes)
    return DictionaryRecipe(k=l0, most_active=1.1 * l0, skip=args.kind == "skip", **sizes)


def _nested(dictionary: Any) -> dict[str, dict[str, float]]:
    """For each metric, its values by layer."""
    return {str(metric): dict(zip(rows["layer"], rows["value"], strict=True)) for metric, rows in dictionary.groupby("metric", sort=False)}  # fmt: skip


def _device(args: Arguments) -> str:
    from biology.records import InputError

    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError("--device cuda: this machine (or this build of torch) has no usable GPU.")
    return args.device or "cpu"


def _directory(args: Arguments) -> Path:
    """The Hugging Face directory that --model names, directly or as a model of config.yaml."""
    path = Path(args.model)
    if path.is_dir() or not Path(args.config).is_file():
        return path
    config, root = configuration(args)
    return root / config.model(args.model).path
