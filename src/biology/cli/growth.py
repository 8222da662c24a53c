"""Commands on grown models: grow, certify, train transcoders, write cards, evaluate.

The record of a growth (recipe, seed, hashes, learning curve, times) is written to `record.json` beside the weights; the
cards are generated from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biology import artefacts
from biology.cli.arguments import writable_folder
from biology.cli.opening import configuration, open_model, start_torch
from biology.folders import FIRST_STAGE, claim, locked, replaced
from biology.printing import print_table
from biology.provenance import PACKAGE

if TYPE_CHECKING:
    import pandas as pd

    from biology.cases.mechanism import Mechanism

Arguments = argparse.Namespace
THREADS = 2
"""Threads for growing, on any machine: the same seed and threads give the same weights."""
PLANTING_THREADS = 1
"""Threads for planting: one, so that two seeds can be grown at the same time."""
CASE_STEPS = 800
"""Steps for a model grown on the prompts of one case."""
CASE_DICTIONARY: dict[str, Any] = {"n_features": 512, "n_features_first": 256, "steps": 800, "batch": 1024}
"""Transcoders of such a model, which is taught a few hundred prompts: a quarter of the features, over half as many steps."""
DICTIONARY_THREADS = 1
"""Threads for transcoders: one, so that two sets can be trained at the same time."""
MODEL = (
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "record.json", "heldout.parquet", "certificate.csv", "README.md", f"{FIRST_STAGE}/",
)  # fmt: skip
"""The files of a grown model, with its card, and what it was after its first stage if there are two."""
SOURCES = (
    "corpora/corpus.py", "corpora/twins.py", "corpora/mechanism_prompts.py", "cases/mechanism.py", "organisms/organism.py",
    "organisms/variable_sites.py", "organisms/lesson.py", "organisms/taps.py", "organisms/planting.py",
)  # fmt: skip
"""The modules that decide the weights."""
SETS = ("transcoders", "cross_layer")
"""Folders beside the weights, with transcoders trained on the model's activations."""
WORK = Path("data/runs/organism")


def evaluate(args: Arguments) -> None:
    """behaviour of a model on its held-out prompts, as a table"""
    config, root = configuration(args, shipped=True)
    from biology.records import InputError

    entry = config.model(args.model)
    path = root / entry.path / "heldout.parquet"
    if not path.is_file():
        raise InputError(f"{path} does not exist: '{args.model}' has no held-out prompts of its own.")
    model, _ = open_model(entry, root, args.model, config.threads)
    import pandas as pd

    from biology.supernodes.behaviour import evaluate as evaluated

    print_table(evaluated(model, pd.read_parquet(path)), args.json)


def organism(args: Arguments) -> None:
    """grow the embedded model from its corpus, certify what was planted, train its transcoders, write its cards"""
    from biology.corpora.twins import PLANTED

    grow(args)
    record = record_of(_folder(args))
    if record.get("case") or record.get("corpus") in PLANTED:
        certify(args)
    _train_per_layer(args)
    cards(args)


def grow(args: Arguments) -> None:
    """only grow the model (resumes where it was interrupted)"""
    from biology.corpora.twins import EMBEDDED, PLANTED, twin

    name = args.corpus or (EMBEDDED if args.case is None else "")
    planted = args.case is not None or name in PLANTED
    threads = PLANTING_THREADS if planted else THREADS
    start_torch(threads)
    import torch

    from biology.cases.mechanism import twins_of
    from biology.corpora.corpus import WORDS
    from biology.corpora.lessons import corpus_of, lesson_of
    from biology.grammar import unknown
    from biology.organisms.cards import TRIALS, with_trial
    from biology.organisms.organism import Planting, Recipe
    from biology.organisms.organism import grow as grown
    from biology.organisms.planting import Amounts
    from biology.records import InputError
    from biology.verdicts.registration import check_mechanism

    folder, started = _folder(args), time.monotonic()
    _claim(folder)
    if args.case is not None and args.corpus is not None:
        raise InputError("--case grows a model on the prompts of a case, --corpus on another corpus: name one of them.")
    recipe = Planting() if planted else Recipe()
    if args.case is not None:
        recipe = replace(recipe, steps=CASE_STEPS, batch={}, lessons={args.case: Amounts(plain=96, begin=100)})
    else:
        recipe = replace(recipe, **twin(name).recipe)
    if isinstance(recipe, Planting) and name and (cases := twin(name).cases) is not None:
        recipe = replace(recipe, lessons={case: recipe.lessons[case] for case in cases})
    width, steps = _size(args, folder)
    if width:
        if width % (2 * recipe.n_heads):
            raise InputError(f"width {width}: the {recipe.n_heads} heads need a multiple of {2 * recipe.n_heads}.")
        recipe = replace(recipe, d_model=width, d_mlp=width * recipe.d_mlp // recipe.d_model)
    if steps:
        recipe = replace(recipe, steps=steps)
    here = _checkout(args)
    if args.twin is not None and args.twin not in (stated := twins_of(here, args.case or "")):
        raise InputError(f"--twin: {unknown('twin', args.twin, stated, of=f'the case {args.case}')}")
    corpus = corpus_of({"corpus": name, "case": args.case}, here)
    words = artefacts.contents_hash(WORDS, "*.csv")[:16]
    work, made_of = WORK / folder.name, {"corpus": name or str(args.case), "words": words}
    lessons = {}
    for case in recipe.lessons if isinstance(recipe, Planting) else ():
        mechanism, stated = _stated(here, case, args.twin or name, "write the mechanism that is to be planted there")
        check_mechanism(here, case, args.twin or name)
        for variable, one in mechanism.variables.items():
            if one.layers[1] >= recipe.n_layers:
                raise InputError(
                    f"{stated}: variables.{variable}.layers: layer {one.layers[1]} is not there: such a model has layers 0 to {recipe.n_layers - 1}."
                )
        lessons[case] = mechanism, lesson_of(corpus, case)
        made_of[case] = artefacts.contents_hash(stated.parent, stated.name)[:16]
    alone = locked(work / "lock", f"another `biology grow` works in {work}: wait for it")
    with alone, replaced(folder, MODEL, "grow", beside=[f"{name}/" for name in SETS]) as new:
        record = grown(corpus, recipe, args.seed, new, work, made_of=made_of, lessons=lessons)
        record |= {
            "corpus": name or None,
            "case": args.case,
            "twin": args.twin,
            "threads": threads,
            "torch": torch.__version__,
            "seconds": time.monotonic() - started,
            "data_hash": words,
            "source_hash": artefacts.contents_hash(PACKAGE, *SOURCES)[:16],
        }
        artefacts.write_json(new / "record.json", record)
        if FIRST_STAGE in record:
            artefacts.write_json(new / FIRST_STAGE / "record.json", record | {"curve": [], "first_stage_only": True})
        artefacts.write_columns(new / "heldout.parquet", corpus.held_out().to_dict("list"))
        if artefacts.contents_hash(new, "*.safetensors") != artefacts.contents_hash(folder, "*.safetensors"):
            _without_sets(folder)
    artefacts.write_text(TRIALS, with_trial(record, folder.name).to_csv(index=False, lineterminator="\n"))


def certify(args: Arguments) -> None:
    """measure where a grown model holds the variables of the cases' mechanisms (certificate.csv beside its weights)"""
    start_torch(PLANTING_THREADS)
    import pandas as pd

    from biology.cases.mechanism import CausalModel, twins_of
    from biology.corpora.lessons import corpus_of, lesson_of
    from biology.models.model import load_model
    from biology.organisms.certificate import certify as certified
    from biology.records import InputError
    from biology.verdicts.calibration import CERTIFIED

    folder = _folder(args)
    record = record_of(folder)
    here, rows = _checkout(args), []
    corpus, model = corpus_of(record, here), load_model(folder, name=folder.name)
    name = str(record.get("twin") or record.get("corpus") or "")
    for case in record["recipe"].get("lessons", {}):
        # a twin is also tested for the mechanism that it lacks
        for twin in ("", *(one for one in twins_of(here, case) if one == name)):
            mechanism, stated = _stated(here, case, twin, f"{folder} was planted with it")
            table = certified(model, case, CausalModel(mechanism, lesson_of(corpus, case), str(stated)))
            rows.append(table.assign(mechanism=twin or case))
    if not rows:
        raise InputError(f"{folder}: nothing was planted in this model, so nothing can be certified.")
    found = pd.concat(rows)
    artefacts.write_text(folder / "certificate.csv", found.to_csv(index=False, lineterminator="\n"))
    print_table(found, getattr(args, "json", False))  # `organism` calls this too, and has no such option
    weak = found[(found["what"] == "mlp") & (found["arm"] == "effect") & (found["accuracy"] < CERTIFIED)]
    for case, variable in zip(weak["case"], weak["variable"], strict=True):
        print(
            f"{case}: {variable} is not held where it was planted (below {CERTIFIED:g}): claims on it count as open "
            "(docs/explanation/planting.md).",
            file=sys.stderr,
        )


def _stated(root: Path, case: str, twin: str, why: str) -> tuple[Mechanism, Path]:
    """The mechanism of a case, or of a twin, and its file. If there is none, the error says why it is needed."""
    from biology.cases.mechanism import load_mechanism, mechanism_path
    from biology.records import InputError

    path, mechanism = mechanism_path(root, case, twin), load_mechanism(root, case, twin)
    if mechanism is None:
        raise InputError(f"{path}: no such file: {why} (docs/explanation/planting.md).")
    return mechanism, path


def _without_sets(folder: Path) -> None:
    """Deletes the transcoders of weights that are about to be replaced, so that no model has another one's transcoders
    beside it."""
    from biology.transcoders.layouts import WRITTEN

    for name in SETS:
        if (folder / name).is_dir():
            with replaced(folder / name, (*WRITTEN, "record.json"), "train-transcoders"):
                print(f"{folder / name}: deleted, since it was trained on weights that are replaced")


def train_transcoders(args: Arguments) -> None:
    """only train the transcoders of a grown model, per layer (plt) or cross layer (clt)"""
    {"plt": _train_per_layer, "clt": _train_cross_layer}[args.kind](args)


def _train_per_layer(args: Arguments) -> None:
    start_torch(DICTIONARY_THREADS)
    import torch

    from biology.corpora.lessons import corpus_of
    from biology.dictionaries.dictionary_training import DictionaryRecipe, train_set
    from biology.models.model import encode, load_model
    from biology.organisms.organism import dictionary_prompts
    from biology.transcoders.layouts import WRITTEN
    from biology.transcoders.transcoder_files import save_transcoders

    folder, started = _folder(args), time.monotonic()
    record, out, owned = record_of(folder), folder / "transcoders", (*WRITTEN, "record.json")
    claim(out, owned, "train-transcoders")
    # those of a first stage are for the model that it became
    name = folder.parent.name if record.get("first_stage_only") else folder.name
    model = load_model(folder, name=name)
    seed = int(str(record["seed"]))
    prompts = dictionary_prompts(corpus_of(record, _checkout(args)), lambda text: encode(model, text), seed)
    with replaced(out, owned, "train-transcoders") as new:
        trained = train_set(model, prompts, DictionaryRecipe(**CASE_DICTIONARY if record.get("case") else {}), seed)
        save_transcoders(new, trained, layout="saelens", model_name=name, dtype=torch.float16)
        artefacts.write_json(new / "record.json", {"seconds": time.monotonic() - started, "seed": seed})


def _train_cross_layer(args: Arguments) -> None:
    """Resumes where it was interrupted. The record beside the weights holds the recipe and measurements on held-out
    prompts."""
    start_torch(DICTIONARY_THREADS)
    import pandas as pd
    import torch

    from biology.corpora.corpus import WORDS
    from biology.corpora.lessons import corpus_of
    from biology.corpora.two_hop_prompts import state_prompts
    from biology.dictionaries.cross_layer_training import CrossLayerRecipe, train_cross_layer_set
    from biology.models.model import encode, load_model
    from biology.organisms.organism import dictionary_prompts
    from biology.supernodes.behaviour import fidelity, selective_features
    from biology.transcoders.layouts import WRITTEN
    from biology.transcoders.transcoder_files import load_transcoders, save_transcoders

    folder, started, recipe = _folder(args), time.monotonic(), CrossLayerRecipe()
    grown = record_of(folder)
    corpus, seed = corpus_of(grown, _checkout(args)), int(str(grown["seed"]))
    model = load_model(folder, name=folder.name)
    prompts = dictionary_prompts(corpus, lambda text: encode(model, text), seed)
    work, out = WORK / f"{folder.name}-cross_layer", folder / "cross_layer"
    owned = (*WRITTEN, "record.json")
    claim(out, owned, "train-transcoders")
    identity = {"model": artefacts.contents_hash(folder, "*.safetensors")[:16]}
    with replaced(out, owned, "train-transcoders") as new:
        trained = train_cross_layer_set(model, prompts, recipe, seed, work=work, identity=identity)
        save_transcoders(new, trained, layout="circuit-tracer", model_name=folder.name, dtype=torch.float16)
        seconds = time.monotonic() - started
        stored = load_transcoders(new, model)
        held_out = pd.read_parquet(folder / "heldout.parquet")
        parts = {"dev": held_out[held_out["split"] == "dev"].drop(columns="split"), "test": held_out}
        measured = {part: _measurements(fidelity(model, stored, frame)) for part, frame in parts.items()}
        states = selective_features(model, stored, state_prompts(corpus), {"name": "name", "last token": "prompt"})
        record = {
            "recipe": asdict(recipe),
            "recipe_hash": recipe.hash(),
            "seed": seed,
            "threads": DICTIONARY_THREADS,
            "torch": torch.__version__,
            "seconds": seconds,
            "data_hash": artefacts.contents_hash(WORDS, "*.csv")[:16],
            "weights": identity["model"],
            "features": list(stored.n_features),
            "states_with_a_feature": len(states),
            "fidelity": measured,
        }
        artefacts.write_json(new / "record.json", record)


def cards(args: Arguments) -> None:
    """only write the model card and the data card"""
    start_torch(THREADS)
    import pandas as pd

    from biology.corpora.corpus import WORDS
    from biology.corpora.lessons import corpus_of
    from biology.corpora.twins import WILD
    from biology.corpora.two_hop_prompts import state_prompts
    from biology.models.model import load_model
    from biology.organisms.cards import data_card, model_card
    from biology.report.numbers import parameters
    from biology.supernodes.behaviour import evaluate as evaluated
    from biology.supernodes.behaviour import fidelity, selective_features
    from biology.transcoders.transcoder_files import load_transcoders

    folder = _folder(args)
    record = record_of(folder)
    record["transcoder_seconds"] = record_of(folder / "transcoders")["seconds"]
    model = load_model(folder, name=folder.name)
    held_out = pd.read_parquet(folder / "heldout.parquet")
    record |= {"vocabulary": model.n_vocab, "parameters": parameters(folder / "model.safetensors")}
    corpus, transcoders = corpus_of(record, _checkout(args)), load_transcoders(folder / "transcoders", model)
    measured = fidelity(model, transcoders, held_out)
    states = None
    if "two_hop" in corpus.blocks:
        states = selective_features(model, transcoders, state_prompts(corpus), {"name": "name", "last token": "prompt"})
    beside = folder / "cross_layer/record.json"
    cross_layer = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else None
    certified = folder / "certificate.csv"
    certificate = pd.read_csv(certified, keep_default_na=False) if certified.is_file() else None
    card = model_card(folder.name, record, evaluated(model, held_out), measured, states, cross_layer, certificate)
    artefacts.write_text(folder / "README.md", card)
    if record.get("corpus") in WILD:  # the whole of it
        artefacts.write_text(WORDS / "README.md", data_card(corpus))


def _measurements(fidelity: pd.DataFrame) -> dict[str, dict[str, float]]:
    """For each metric, its values by layer over all behaviours; for the agreement of answers, also those by behaviour."""
    by_layer = fidelity[fidelity["behaviour"] == "all"]
    made = {str(m): dict(zip(rows["layer"], rows["value"], strict=True)) for m, rows in by_layer.groupby("metric")}
    agreement = fidelity[fidelity["metric"] == "top1_agreement"]
    return made | {"top1_agreement": dict(zip(agreement["behaviour"], agreement["value"], strict=True))}


def _claim(folder: Path) -> None:
    """Raises `InputError` if a model cannot be grown into `folder`, because it holds something else, perhaps another
    model."""
    from biology.records import InputError
    from biology.transcoders.layouts import WRITTEN

    claim(folder, [*MODEL, *(f"{name}/" for name in SETS)], "grow")
    for name in SETS:
        claim(folder / name, [*WRITTEN, "record.json"], "train-transcoders")
    if any(folder.glob("*.safetensors")) and not (
        (folder / "record.json").is_file() and record_of(folder).get("curve")
    ):
        raise InputError(f"{folder} holds a model that `biology grow` did not grow: name another --out.")


def _folder(args: Arguments) -> Path:
    """The folder in which a model is grown. Raises `InputError` if it cannot be written to."""
    if args.out is not None:
        return writable_folder(Path(args.out))
    from biology.corpora.twins import EMBEDDED

    other = args.corpus if args.corpus != EMBEDDED else None
    width = f"width{args.width}" if args.width and args.case is None else None  # an organism of a case has one width
    name = "-".join(filter(None, [args.case or "elegans", args.twin, other, width]))
    return writable_folder(Path("data/models") / (name if args.seed == 0 else f"{name}-seed{args.seed}"))


def _size(args: Arguments, folder: Path) -> tuple[int | None, int | None]:
    """Width and steps: those of the command line, or for an organism of a case those of its entry in config.yaml, if it has one."""
    from biology.config import load_config

    width, steps, path = args.width, args.steps, Path(args.config)
    if args.case is not None and path.is_file():
        for entry in load_config(path).models.values():
            if entry.path == folder:
                width, steps = width or entry.width, steps or entry.steps
    return width, steps


def _checkout(args: Arguments) -> Path:
    """The folder that holds config.yaml and `experiments`. A model can be grown without either."""
    return Path(args.config).parent


def record_of(folder: Path) -> dict[str, object]:
    """The record of a growth. Raises `InputError` if there is none, or if it is damaged."""
    from biology.records import InputError

    try:
        return json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder / 'record.json'} does not exist: grow the model first (`biology grow`).") from None
    except ValueError:
        raise InputError(f"{folder / 'record.json'} is damaged: grow the model again (`biology grow`).") from None
