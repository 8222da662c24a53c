"""The commands. One stage of the Snakefile is one command, and a command is a few lines: read files, call a module,
write.

Only this module reads arguments, writes files, sets seeds and picks devices. Modules are imported inside the
commands, so that `biology --help` answers at once and judging, drawing and writing never start torch. A file is
written under a temporary name and renamed when it is whole: whatever is interrupted, what is there is complete.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biology import artefacts

if TYPE_CHECKING:
    import pandas as pd

    from biology.case import Case
    from biology.config import Config, ModelConfig
    from biology.model import Model
    from biology.transcoders import TranscoderSet

Arguments = argparse.Namespace
Command = Callable[[Arguments], None]

PIPELINE = "The pipeline, in order (snakemake runs it; results go to data/runs/<model>/<case>/)"
PROMPT = "One prompt"
ORGANISM = "The embedded model"
HOUSE = "Housekeeping"
SECTIONS: dict[str, dict[str, Command]] = {PIPELINE: {}, PROMPT: {}, ORGANISM: {}, HOUSE: {}}
OPTIONS: dict[Command, dict[str, dict[str, Any]]] = {}

CONFIG: dict[str, Any] = {"default": "config.yaml", "metavar": "FILE", "help": "configuration (%(default)s)"}
MODEL: dict[str, Any] = {"required": True, "metavar": "NAME", "help": "a model of config.yaml"}
CASE: dict[str, Any] = {"required": True, "metavar": "NAME", "help": "a folder of experiments/"}


def command(section: str, **options: dict[str, Any]) -> Callable[[Command], Command]:
    """Registers a function as `biology <its name>`; the first line of its docstring is its help."""

    def register(function: Command) -> Command:
        SECTIONS[section][function.__name__.strip("_").replace("_", "-")] = function
        OPTIONS[function] = {"config": CONFIG, **options}
        return function

    return register


# The pipeline --------------------------------------------------------------------------------------------------------


@command(PIPELINE, model=MODEL)
def load(args: Arguments) -> None:
    """check a model and its transcoders: shapes, hooks, hashes, freezing, fidelity"""
    config, root = _configuration(args)
    entry = config.model(args.model)
    model, transcoders = _open(config, root, args.model)
    from biology.activations import fidelity
    from biology.case import discover_cases, load_case
    from biology.model import self_test

    cases = [load_case(root, name) for name in config.cases_of(args.model, discover_cases(root))]
    manifest = {
        "model": args.model,
        "seed": entry.seed,
        "dtype": entry.dtype,
        "device": entry.device,
        "architecture": model.architecture,
        "freezing_error": self_test(model),
        "weights": artefacts.contents_hash(root / entry.path, "*.safetensors"),
        "transcoders": {
            "name": f"{transcoders.kind} {transcoders.activation}",
            "weights": artefacts.contents_hash(root / entry.transcoders, "**/*.safetensors"),
            "features": list(transcoders.n_features),
        },
        "versions": artefacts.versions(),
    }
    folder = root / "data/runs" / args.model
    write_table(
        folder / "fidelity.parquet", fidelity(model, transcoders, _behaviours(root / entry.path, cases)), "fidelity"
    )
    artefacts.write_json(folder / "load.json", manifest)


@command(PIPELINE, model=MODEL, case=CASE)
def cache(args: Arguments) -> None:
    """run every prompt of a case once: its answer and its active features"""
    config, root, case, folder = _case(args)
    model, transcoders = _open(config, root, args.model)
    from biology.activations import cache as cached

    tensors, prompts = cached(model, transcoders, case)
    artefacts.write_tensors(folder / "cache.safetensors", tensors)
    write_table(folder / "cache.parquet", prompts, "prompts")


@command(PIPELINE, model=MODEL, case=CASE)
def group(args: Arguments) -> None:
    """find the members of the supernodes by their rules"""
    config, root, case, folder = _case(args)
    model, transcoders = _open(config, root, args.model)
    from biology.supernodes import group as grouped

    members = grouped(
        model, transcoders, case, _table(folder / "cache.parquet"), artefacts.read_tensors(folder / "cache.safetensors")
    )
    write_table(folder / "group.parquet", members, "supernodes")


@command(PIPELINE, model=MODEL, case=CASE)
def attribute(args: Arguments) -> None:
    """build the attribution graphs and reduce them to edges between supernodes"""
    config, root, case, folder = _case(args)
    model, transcoders = _open(config, root, args.model)
    from biology.supernodes import reduce_graphs

    reduced = reduce_graphs(
        model, transcoders, case, _table(folder / "cache.parquet"), _table(folder / "group.parquet"), config.attribution
    )
    write_table(folder / "attribute.parquet", reduced.graphs, "graphs")
    write_table(folder / "attribute_edges.parquet", reduced.edges, "edges")
    write_table(folder / "attribute_evidence.parquet", reduced.evidence, "evidence")
    artefacts.write_json(folder / "graphs.json", reduced.shown)


@command(PIPELINE, model=MODEL, case=CASE)
def intervene(args: Arguments) -> None:
    """perturb supernodes, each time beside its controls"""
    config, root, case, folder = _case(args)
    model, transcoders = _open(config, root, args.model)
    from biology.interventions import run_experiments

    evidence, panel = run_experiments(
        model, transcoders, case, _table(folder / "cache.parquet"), _table(folder / "group.parquet"),
        artefacts.read_tensors(folder / "cache.safetensors"), config.statistics,
    )  # fmt: skip
    write_table(folder / "intervene.parquet", evidence, "evidence")
    write_table(folder / "intervene_panel.parquet", panel, "panel")


@command(PIPELINE, model=MODEL, case=CASE)
def tabulate(args: Arguments) -> None:
    """write everything measured as tidy tables; nothing after this needs torch"""
    import pandas as pd

    _, root, _, folder = _case(args)
    stages = {
        "prompts": [folder / "cache.parquet"],
        "evidence": [folder / "attribute_evidence.parquet", folder / "intervene.parquet"],
        "graphs": [folder / "attribute.parquet"],
        "edges": [folder / "attribute_edges.parquet"],
        "supernodes": [folder / "group.parquet"],
        "panel": [folder / "intervene_panel.parquet"],
        "fidelity": [root / "data/runs" / args.model / "fidelity.parquet"],
    }
    for name, paths in stages.items():
        frames = [frame for frame in map(_table, paths) if len(frame)] or [_table(paths[0])]
        write_table(folder / f"{name}.parquet", pd.concat(frames, ignore_index=True), name)


@command(PIPELINE, model=MODEL)
def judge(args: Arguments) -> None:
    """compute a verdict for every registered claim of a model"""
    config, root = _configuration(args)
    from biology.case import check_lock, discover_cases, load_claims
    from biology.claims import Meta, judge_all, measure
    from biology.tables import read_tables

    check_lock(root)
    manifest = json.loads((root / "data/runs" / args.model / "load.json").read_text(encoding="utf-8"))
    measured = []
    for case in config.cases_of(args.model, discover_cases(root)):
        tables = read_tables(root / "data/runs" / args.model / case)
        meta = Meta(
            case=case,
            model=args.model,
            transcoders=manifest["transcoders"]["name"],
            seed=manifest["seed"],
            row_residual=float(tables["graphs"]["row_residual"].max()),
        )
        measured += measure(load_claims(root, case), tables["evidence"], tables["prompts"], meta, config.statistics)
    judgement = judge_all(measured)
    write_table(root / "data/runs" / args.model / "parts.parquet", judgement.parts, "parts")
    write_table(root / "reports" / args.model / "verdicts.csv", judgement.verdicts, "verdicts")


@command(
    PIPELINE, model=MODEL, case=CASE, figure={"required": True, "metavar": "NAME", "help": "a figure of case.yaml"}
)
def draw(args: Arguments) -> None:
    """draw one figure of a case, as SVG and PNG"""
    _, root, case, folder = _case(args)
    from biology.figures import draw as drawn
    from biology.tables import read_tables

    for form, data in drawn(args.figure, read_tables(folder), case).items():
        artefacts.write_bytes(root / "figures" / args.model / args.case / f"{args.figure}.{form}", data)


@command(PIPELINE, model=MODEL | {"required": False}, case=CASE | {"required": False})
def write(args: Arguments) -> None:
    """write the report of a case, or the index of all reports if none is named"""
    config, root = _configuration(args)
    from biology import report

    if args.model is None:
        artefacts.write_text(root / "reports/index.html", report.index_page(root, config))
        return
    _, _, case, _ = _case(args)
    artefacts.write_text(
        root / "reports" / args.model / f"{args.case}.html", report.case_page(root, config, args.model, case)
    )


# One prompt ----------------------------------------------------------------------------------------------------------


@command(
    PROMPT,
    text={"nargs": "?", "positional": True, "help": "the prompt"},
    model={"required": True, "metavar": "NAME|DIR", "help": "a model of config.yaml, or a Hugging Face directory"},
    transcoders={"metavar": "DIR", "help": "directory of transcoders (for a model of config.yaml: those named there)"},
    token_ids={"metavar": "1,2,3", "help": "token ids instead of the text; no tokenizer is needed then"},
    max_nodes={"type": int, "metavar": "N", "help": "most feature nodes (all active features)"},
    max_logits={"type": int, "metavar": "N", "help": "most logit nodes (10)"},
    paths={"type": int, "default": 10, "metavar": "N", "help": "how many paths to print (%(default)s)"},
    device={"choices": ("cpu", "cuda"), "default": "cpu", "help": "where to compute (%(default)s)"},
    out={"metavar": "DIR", "help": "where to write graph.json, graph.safetensors and nodes.parquet"},
)
def trace(args: Arguments) -> None:
    """trace a prompt of your own: its attribution graph as files, its strongest paths in words"""
    from biology.config import AttributionConfig, InputError

    if (args.text is None) == (args.token_ids is None):
        raise InputError("give either a prompt or --token-ids.")
    known = Path(args.config).is_file()
    settings = _configuration(args)[0].attribution if known else AttributionConfig()
    entry, root = _entry(args, known)
    model, transcoders = _open_entry(entry, root, Path(args.model).name, threads=None)
    from biology import graph as graphs
    from biology.attribution import attribute as attribution_graph
    from biology.graph_json import arrays, export_json, nodes_table
    from biology.model import encode

    ids = _token_ids(args.token_ids, model) if args.token_ids is not None else encode(model, args.text)
    graph = attribution_graph(
        model,
        transcoders,
        ids,
        max_logits=args.max_logits or settings.max_logits,
        logit_probability=settings.logit_probability,
        max_feature_nodes=args.max_nodes if args.max_nodes is not None else settings.max_feature_nodes,
    )
    masks = graphs.prune(graph, settings.node_threshold, settings.edge_threshold)
    if args.out:
        out, prompt = Path(args.out), args.text if args.text is not None else f"token ids {args.token_ids}"
        pruning = {"node_threshold": settings.node_threshold, "edge_threshold": settings.edge_threshold}
        exported = export_json(graph, *masks, slug=out.name, scan=model.name, prompt=prompt, pruning_settings=pruning)
        artefacts.write_tensors(out / "graph.safetensors", arrays(graph, *masks))
        artefacts.write_columns(out / "nodes.parquet", nodes_table(graph))
        artefacts.write_json(out / "graph.json", exported)
    for index, label in zip(range(graph.n_nodes)[graph.logits], graphs.target_labels(graph), strict=True):
        print(f"{float(graph.probability[index]):7.2%}  {label}")
    score = graphs.scores(graph)
    print(f"\nreplacement score {score.replacement:.3f}, completeness {score.completeness:.3f}, {graph.n_nodes} nodes")
    print("\nStrongest paths (share of the influence on the outputs, sign):")
    for path in graphs.strongest_paths(graph, args.paths):
        print(graphs.describe(graph, path))
    if args.out:
        print(f"\nWritten: {args.out}/graph.json, graph.safetensors, nodes.parquet")


# The embedded model --------------------------------------------------------------------------------------------------


@command(ORGANISM, model=MODEL)
def evaluate(args: Arguments) -> None:
    """behaviour of a model on its held-out prompts, as a table"""
    config, root = _configuration(args)
    from biology.config import InputError

    path = root / config.model(args.model).path / "heldout.parquet"
    if not path.is_file():
        raise InputError(f"{path} does not exist: '{args.model}' has no held-out prompts of its own.")
    model, _ = _open(config, root, args.model)
    from biology.activations import evaluate as evaluated

    print(evaluated(model, _table(path)).to_string(index=False))


SEED: dict[str, Any] = {"type": int, "metavar": "N", "default": 0, "help": "seed (%(default)s, the shipped one)"}
TO: dict[str, Any] = {"metavar": "DIR", "help": "folder to write to (data/models/elegans, or elegans-seed<n>)"}


@command(ORGANISM, seed=SEED, out=TO)
def organism(args: Arguments) -> None:
    """grow the embedded model from its corpus, train its transcoders, write its cards"""
    grow(args)
    train_transcoders(args)


@command(ORGANISM, seed=SEED, out=TO)
def grow(args: Arguments) -> None:
    """only grow the model (resumes where it was interrupted)"""
    from biology.organism import grow_organism

    _torch(threads=2)
    grow_organism(_organism_folder(args), args.seed)


@command(ORGANISM, seed=SEED, out=TO)
def train_transcoders(args: Arguments) -> None:
    """only train the transcoders of a grown model"""
    from biology.dictionary_training import train_organism_transcoders

    _torch(threads=2)
    train_organism_transcoders(_organism_folder(args), args.seed)


# Housekeeping --------------------------------------------------------------------------------------------------------


@command(HOUSE)
def lock(args: Arguments) -> None:
    """register new and amended claims in experiments/claims.lock"""
    from biology.case import read_lock, refreshed_lock

    root = Path(args.config).parent
    before, after = read_lock(root), refreshed_lock(root)
    artefacts.write_text(root / "experiments/claims.lock", json.dumps(after, indent=2, sort_keys=True) + "\n")
    for case, hashes in after.items():
        for claim, digest in hashes.items():
            old = before.get(case, {}).get(claim)
            if old != digest:
                print(f"{case}: {claim} {'registered' if old is None else 'amended'}")


@command(HOUSE)
def scoreboard(args: Arguments) -> None:
    """write the verdicts of all models into the generated block of README.md"""
    from biology.report import with_scoreboard

    root = Path(args.config).parent
    artefacts.write_text(root / "README.md", with_scoreboard((root / "README.md").read_text(encoding="utf-8"), root))


@command(HOUSE)
def bench(args: Arguments) -> None:
    """time the attribution engine"""
    from biology.benchmark import benchmark

    _torch(threads=1)
    print(benchmark())


# Reading -------------------------------------------------------------------------------------------------------------


def _configuration(args: Arguments) -> tuple[Config, Path]:
    """The configuration, and the folder that its paths are relative to."""
    from biology.config import load_config

    return load_config(args.config), Path(args.config).parent


def _case(args: Arguments) -> tuple[Config, Path, Case, Path]:
    """Configuration, root, case, and the folder of results of (model, case)."""
    from biology.case import load_case

    config, root = _configuration(args)
    config.model(args.model)
    return config, root, load_case(root, args.case), root / "data/runs" / args.model / args.case


def _torch(threads: int | None) -> None:
    """Starts torch with fixed threads and seed, so that the same job gives the same bytes wherever it runs."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)


def _open(config: Config, root: Path, name: str) -> tuple[Model, TranscoderSet]:
    """A model of the configuration with its transcoders."""
    return _open_entry(config.model(name), root, name, config.threads)


def _open_entry(entry: ModelConfig, root: Path, name: str, threads: int | None) -> tuple[Model, TranscoderSet]:
    _torch(threads)
    import torch

    from biology.config import InputError
    from biology.model import load_model
    from biology.transcoders import load_transcoders

    if entry.device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"model '{name}' is to run on cuda, but this machine has none: set `device: cpu`.")
    model = load_model(root / entry.path, name=name, device=entry.device, dtype=getattr(torch, entry.dtype))
    return model, load_transcoders(root / entry.transcoders, model)


def _entry(args: Arguments, known: bool) -> tuple[ModelConfig, Path]:
    """What `trace` works on: a model of config.yaml, or directories."""
    from biology.config import InputError, ModelConfig

    if known:
        config, root = _configuration(args)
        if args.model in config.models:
            entry = config.models[args.model].model_copy(update={"device": args.device})
            if args.transcoders:
                entry, root = entry.model_copy(update={"path": root / entry.path}), Path()
                entry = entry.model_copy(update={"transcoders": Path(args.transcoders)})
            return entry, root
        if not Path(args.model).is_dir():
            config.model(args.model)
    if not Path(args.model).is_dir():
        raise InputError(f"unknown model '{args.model}': neither in {args.config} nor a directory.")
    if not args.transcoders:
        raise InputError("a model given as a directory needs --transcoders DIR.")
    return ModelConfig(path=Path(args.model), transcoders=Path(args.transcoders), device=args.device), Path()


def _token_ids(text: str, model: Model) -> list[int]:
    from biology.config import InputError

    try:
        ids = [int(piece) for piece in text.split(",")]
    except ValueError:
        raise InputError(f"--token-ids takes numbers separated by commas, not '{text}'.") from None
    for token in ids:
        if not 0 <= token < model.n_vocab:
            raise InputError(f"--token-ids: {token} is no token of a vocabulary of {model.n_vocab}.")
    return ids


def _behaviours(path: Path, cases: list[Case]) -> pd.DataFrame:
    """Prompts to measure fidelity on: the model's own held-out prompts, or the prompt sets of the cases."""
    import pandas as pd

    if (path / "heldout.parquet").is_file():
        return _table(path / "heldout.parquet")
    rows = [(case.name, item.text, item.answer, item.split) for case in cases for item in case.items]
    return pd.DataFrame(rows, columns=["behaviour", "prompt", "answer", "split"])


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(path)


def _organism_folder(args: Arguments) -> Path:
    if args.out:
        return Path(args.out)
    return Path("data/models") / ("elegans" if args.seed == 0 else f"elegans-seed{args.seed}")


# Arguments -----------------------------------------------------------------------------------------------------------


def _summary(function: Command) -> str:
    return (function.__doc__ or "").splitlines()[0]


def _contents() -> str:
    """The table of contents that `biology --help` prints."""
    lines = ["usage: biology <command> [options]      (biology <command> --help for its options)", ""]
    lines += [
        "Every case study of On the Biology of a Large Language Model, regenerated, with a verdict for every claim."
    ]
    for section, commands in SECTIONS.items():
        lines += ["", section]
        lines += [f"  {name:<18} {_summary(function)}" for name, function in commands.items()]
    lines += [
        "",
        "Everything at once: make figures. New here: README.md. Words: GLOSSARY.md. To extend: CONTRIBUTING.md.",
    ]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="biology", usage="biology <command> [options]")
    parser.format_help = _contents  # type: ignore[method-assign]
    commands = parser.add_subparsers(metavar="<command>", required=True, prog="biology")
    for section in SECTIONS.values():
        for name, function in section.items():
            one = commands.add_parser(name, description=_summary(function))
            for option, settings in OPTIONS[function].items():
                settings = dict(settings)
                flag = option if settings.pop("positional", False) else "--" + option.replace("_", "-")
                one.add_argument(flag, **settings)
            one.set_defaults(function=function)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command. A mistake of the user's is one line on stderr and exit code 2."""
    parser = _parser()
    args = parser.parse_args(argv if argv is not None else sys.argv[1:] or ["--help"])
    from biology.config import InputError

    try:
        args.function(args)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
