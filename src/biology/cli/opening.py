"""What commands load before their work: the configuration, a case with a model's own prompts, a model with its
transcoders, and the roles of its features.

Nothing is loaded before it is known to be complete and to fit into memory. Torch is imported inside the functions that
need it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from biology.cases.case import Case
    from biology.config import AttributionConfig, Config, ModelConfig
    from biology.findings.labels import Roles
    from biology.models.model import Model
    from biology.transcoders.transcoder_set import TranscoderSet

Arguments = argparse.Namespace


def configuration(args: Arguments, *, shipped: bool = False) -> tuple[Config, Path]:
    """The configuration, and the folder to which its paths are relative; see `config_file` for `shipped`."""
    from biology.config import config_file, load_config

    path = config_file(args.config, shipped=shipped)
    return load_config(path, getattr(args, "model", None)), path.parent


def subject(args: Arguments) -> tuple[ModelConfig, AttributionConfig]:
    """The model to use, from the configuration or from directories, and its settings."""
    from biology.config import ModelConfig
    from biology.records import InputError

    config, root = configuration(args, shipped=True)
    if args.model in config.models:
        entry = config.models[args.model]
        given: dict[str, Any] = {
            "device": args.device or entry.device,
            "dtype": args.dtype or entry.dtype,
            "offload": args.offload or entry.offload,
            "path": root / entry.path,
            "transcoders": entry.transcoders if entry.neurons else root / entry.transcoders,
        }
        return entry.model_copy(update=given | _dictionary(args, entry)), config.attribution
    if not Path(args.model).is_dir():
        config.model(args.model)
    if not args.transcoders:
        raise InputError(
            "a model given as a directory needs --transcoders DIR, or --transcoders neurons (docs/tutorials/own_model.md)."
        )
    given = {
        "path": Path(args.model),
        "device": args.device or "cpu",
        "dtype": args.dtype or "float32",
        "offload": args.offload,
    }
    return ModelConfig(**given, **_dictionary(args, None)), config.attribution


def _dictionary(args: Arguments, entry: ModelConfig | None) -> dict[str, Any]:
    """The options on features, as keys of an entry."""
    from biology.config import NEURONS
    from biology.records import InputError

    transcoders = Path(args.transcoders) if args.transcoders else entry.transcoders if entry else None
    given = {key: getattr(args, key) for key in ("k", "rule") if getattr(args, key) is not None}
    if given and transcoders != NEURONS:
        raise InputError(f"--{next(iter(given))} is about neurons: give --transcoders {NEURONS} too.")
    return ({} if args.transcoders is None else {"transcoders": transcoders}) | given


def case_of(args: Arguments) -> tuple[Config, Path, Case, Path]:
    """Configuration, root, case, and the folder of results of (model, case)."""
    from biology.cases.case import load_case

    config, root = configuration(args)
    entry = config.model(args.model)
    case = of_corpus(load_case(root, args.case, entry.prompts, entry.at_most), entry, root)
    return config, root, case, root / "data/runs" / args.model / args.case


def cases_of(config: Config, root: Path, model: str) -> list[Case]:
    """The cases of a model, with its own prompts."""
    from biology.cases.case import discover_cases, load_case

    entry = config.model(model)
    names = config.cases_of(model, discover_cases(root, entry.prompts))
    return [of_corpus(load_case(root, name, entry.prompts, entry.at_most), entry, root) for name in names]


def asked_cases(model: Model, config: Config, root: Path, name: str) -> list[Case]:
    """The cases of a model as it is asked them: prompts of a chat stand in its chat template."""
    from biology.supernodes.case_prompts import in_chats

    return [in_chats(model, case) for case in cases_of(config, root, name)]


def of_corpus(case: Case, entry: ModelConfig, root: Path) -> Case:
    """A case with the prompts and answers of the model's own corpus, if that is not elegans's."""
    from biology.cases.case import with_items

    if entry.corpus is None or not case.items:
        return case
    from biology.cases.mechanism import twins_of
    from biology.corpora.twins import KNOWN, prompts_of

    if entry.corpus not in KNOWN and entry.corpus in twins_of(root, case.name):
        return case  # a twin of an organism answers the same prompts: it differs in its mechanism alone
    rows = prompts_of(case.name, entry.corpus, root / "data/words").to_dict("records")
    return with_items(case, rows, f"{entry.corpus}: prompts of case {case.name}")


def start_torch(threads: int | None) -> None:
    """Fixes threads and seed, so that the same job gives the same bytes wherever it runs."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)


def open_model(entry: ModelConfig, root: Path, name: str, threads: int | None) -> tuple[Model, TranscoderSet]:
    """A model with its transcoders, on the device of its entry."""
    start_torch(threads)
    import torch

    from biology.records import InputError

    if entry.device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"model '{name}' needs cuda, but torch finds none here: set `device: cpu`.")
    _say_plan(entry, root, name)
    model = open_alone(entry, root, name)
    return model, open_transcoders(entry, root, name, model)


def open_alone(entry: ModelConfig, root: Path, name: str) -> Model:
    """A model without its transcoders, on the device of its entry. Raises `InputError` for an organism that is not grown yet."""
    import torch

    from biology.config import GROWN_ROLES
    from biology.models.model import load_model
    from biology.records import InputError

    if entry.role in GROWN_ROLES and not (root / entry.path / "config.json").is_file():
        target = "figures/all" if entry.role == "organism" else "robustness/all"
        raise InputError(
            f"model '{name}' does not ship and is not grown yet: `snakemake --cores 2 {target} --config model={name}` grows it and runs its "
            "case (docs/how_to/grow.md)."
        )
    dtype = getattr(torch, entry.dtype)
    return load_model(root / entry.path, name=name, device=entry.device, dtype=dtype, mapped=entry.mapped)


def open_transcoders(entry: ModelConfig, root: Path, name: str, model: Model) -> TranscoderSet:
    """The transcoders of an entry, or the neurons if these are its features, for a model that is loaded."""
    from biology.records import InputError
    from biology.transcoders.neurons import DEFAULT_K, neuron_set
    from biology.transcoders.transcoder_files import load_transcoders
    from biology.transcoders.transcoder_set import shuffled

    if entry.neurons:
        k = DEFAULT_K if entry.k is None else None if entry.k == "all" else entry.k
        found = neuron_set(model, k=k, rule=entry.rule or "half")
        return found if entry.shuffled is None else shuffled(found, entry.shuffled)
    transcoders = load_transcoders(root / entry.transcoders, model, offload=entry.offload)
    stated = None if entry.hub is None else entry.hub.transcoders
    same = {"mlp.hook_in": "ln2.hook_out"} | ({} if model.post_norms else {"mlp.hook_out": "hook_mlp_out"})
    pairs = ((stated.reads, transcoders.read_hook), (stated.writes, transcoders.write_hook)) if stated else ()
    if stated and any(name is not None and same.get(name, name) != same.get(found, found) for name, found in pairs):
        raise InputError(
            f"transcoders in {entry.transcoders} read {transcoders.read_hook} and write {transcoders.write_hook}; those of "
            f"model '{name}' read {stated.reads} and write {stated.writes}."
        )
    return transcoders if entry.shuffled is None else shuffled(transcoders, entry.shuffled)


def _say_plan(entry: ModelConfig, root: Path, name: str) -> None:
    """Prints the memory plan of a model that is not small, before any of it is loaded. Raises `InputError` if it cannot
    fit."""
    import sys

    from biology.models import memory
    from biology.records import InputError

    path, transcoders = root / entry.path, None if entry.neurons else root / entry.transcoders
    if not path.is_dir() or not (transcoders is None or transcoders.is_dir()):
        return  # the loaders report it better
    plan = memory.of_directories(path, transcoders, entry.dtype)
    if plan.total - plan.working < memory.SMALL:
        return
    for device, part in memory.by_device(plan, entry).items():
        there, least = memory.available(device), part.model + part.transcoders
        print(f"{name}, {entry.dtype} on {device}: {part} of {memory.gib(there or 0)}", file=sys.stderr)
        if there is not None and least > there:
            raise InputError(
                f"model '{name}' and its transcoders take {memory.gib(least)} in {entry.dtype}, but this machine has "
                f"{memory.gib(there)} for {device}. `biology models` says what fits."
            )


def verified(entry: ModelConfig, root: Path, name: str) -> dict[str, str]:
    """Commits of a model's downloads, after checking that every file is as downloaded; {} for local directories."""
    from biology.models import hub
    from biology.records import InputError

    commits = {}
    for repository in entry.sources.values():
        folder = root / repository.folder
        record, again = hub.record(folder), f"run `biology fetch --model {name}`."
        if record is None:
            raise InputError(f"{repository.repo} is not in {folder}: {again}")
        if repository.revision not in (None, record["revision"]):
            raise InputError(
                f"{folder} holds revision {record['revision']} of {repository.repo}, but model '{name}' needs "
                f"{repository.revision}: {again}"
            )
        damaged = hub.damaged(folder, progress=True)
        if damaged:
            raise InputError(f"{folder / damaged[0]} is missing or has another hash than the download: {again}")
        commits[repository.repo] = record["revision"]
    return commits


def gates_passed(model: Model, entry: ModelConfig) -> dict[str, bool]:
    """The prompts of an entry that the model answers as an undamaged copy does. Raises `InputError` if there are
    several and it answers none."""
    from biology.models.model import answer_token, encode, run, token_batch
    from biology.records import InputError

    found = {}
    for prompt, answer in (entry.known_as.gates if entry.known_as else {}).items():
        logits, _ = run(model, token_batch(model, encode(model, prompt)), positions=-1)
        found[prompt] = int(logits[0, 0].argmax()) == answer_token(model, prompt, answer, first=True)
    if len(found) > 1 and not any(found.values()):
        raise InputError(
            f"model {model.name} answers none of its {len(found)} gate prompts, such as {next(iter(found))!r}: its weights or "
            "its tokeniser are not what they should be."
        )
    return found


def held_out(path: Path, cases: list[Case]) -> pd.DataFrame:
    """Prompts on which to measure fidelity: the model's own held-out prompts, or else the prompt sets of its cases."""
    import pandas as pd

    if (path / "heldout.parquet").is_file():
        return pd.read_parquet(path / "heldout.parquet")
    items = [(case.name, item) for case in cases for item in case.items if item.role != "donor"]
    rows = [(case, item.text, item.answer, item.split) for case, item in items]
    rows += [(case.name, shown.text, shown.answer, "shown") for case in cases for shown in case.prompts.values()]
    return pd.DataFrame(rows, columns=["behaviour", "prompt", "answer", "split"])


def roles_of(args: Arguments) -> Roles:
    """The roles of features that ship with a model; none with transcoders of one's own."""
    from biology.findings.labels import Roles, shipped_roles
    from biology.supernodes.named_members import labels_key

    config, root = configuration(args, shipped=True)
    path = root / "reports" / args.model / "labels.json"
    if args.model not in config.models or args.transcoders is not None or not path.is_file():
        return Roles()
    return shipped_roles(path, labels_key(root, config.models[args.model]))


def labels_of(
    roles: Roles,
    model: Model,
    transcoders: TranscoderSet,
    features: Iterable[tuple[int, int, int]],
    tokens: Sequence[str],
) -> dict[tuple[int, int], str]:
    """Labels of the given features (layer, index, position): their roles, or the tokens that they clearly promote."""
    from biology.findings.labels import label
    from biology.supernodes.promotion import clearly_promoted

    found: dict[tuple[int, int], dict[str, None]] = {}
    for layer, number, pos in features:
        found.setdefault((layer, number), {}).update(dict.fromkeys(roles.at((layer, number), tokens, pos)))
    bare = [place for place, known in found.items() if not known]
    promoted = clearly_promoted(model, transcoders, sorted(bare))
    named = {place: label(list(known), promoted.get(place, ())).text for place, known in found.items()}
    return {place: text for place, text in named.items() if text}
