"""Commands on transcoders as dictionaries: measure and compare them, hold attributions against ablations, train toy
models, draw figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from biology import artefacts
from biology.cli.arguments import writable_folder
from biology.cli.opening import asked_cases, configuration, held_out, open_model

if TYPE_CHECKING:
    from biology.config import Config
    from biology.dictionaries.dictionary_metrics import Passages
    from biology.models.model import Model

Arguments = argparse.Namespace
PROMPTS = 50
"""Largest number of prompts per behaviour on which dictionaries are measured."""
COMPARED = 5_000
"""Number of tokens of text on which dictionaries are compared."""
COMPARED_OF_LARGE = 1_500
"""The same of a large model (`Model.large`), as each token is run many times."""


def measure(args: Arguments) -> None:
    """measure a model's transcoders as dictionaries on held-out tokens: L0, explained variance, losses, density"""
    config, root = configuration(args)
    entry, folder = config.model(args.model), writable_folder(root / "data/runs" / args.model)
    model, transcoders = open_model(entry, root, args.model, config.threads)
    from biology.dictionaries.dictionary_metrics import measure as measured
    from biology.dictionaries.dictionary_metrics import most_tokens
    from biology.tables import write_table

    _, scored = _passages(args, config, root, model, most_tokens(model))
    found = measured(model, transcoders, scored)
    for name in ("dictionary", "density", "token_errors"):
        write_table(folder / f"{name}.parquet", getattr(found, name), name)


def compare_dictionaries(args: Arguments) -> None:
    """compare all transcoder sets of a model, and its neurons, at equal L0 and equal size"""
    config, root = configuration(args)
    entry = config.model(args.model)
    folder, reports = (writable_folder(root / part / args.model) for part in ("data/runs", "reports"))
    model, transcoders = open_model(entry, root, args.model, config.threads)
    from biology.cli.opening import open_transcoders
    from biology.dictionaries.dictionary_comparison import compare as compared
    from biology.tables import write_table

    sets = {args.model: transcoders}
    for name in config.siblings(args.model)[1:]:
        other = config.model(name)
        if not other.neurons:  # neurons are always part of the comparison
            sets[name] = open_transcoders(other, root, name, model)
    choosing, scored = _passages(args, config, root, model, COMPARED_OF_LARGE if model.large else COMPARED)
    found = compared(model, sets, choosing, scored)
    write_table(folder / "comparison.parquet", found, "comparison")
    write_table(reports / "dictionaries.csv", found, "comparison")


def predict_ablations(args: Arguments) -> None:
    """compare attributions with the effects of ablations, by rule, target and what is frozen: table, summary and figure"""
    config, root = configuration(args)
    entry = config.model(args.model)
    run, reports, figures = (writable_folder(root / part / args.model) for part in ("data/runs", "reports", "figures"))
    model, transcoders = open_model(entry, root, args.model, config.threads)
    from biology.figures.ablation_prediction_figure import DIGITS, figure, summary
    from biology.figures.drawing import styled, svg
    from biology.tables import write_table
    from biology.validation.ablation_prediction import predict_ablations as measured

    found = measured(model, transcoders, held_out(root / entry.path, asked_cases(model, config, root, args.model)))
    write_table(run / "ablation_prediction.parquet", found, "ablation_prediction")
    shown = summary(found)
    text = shown.to_csv(index=False, lineterminator="\n", float_format=f"%.{DIGITS}f")
    artefacts.write_text(reports / "ablation_prediction.csv", text)
    with styled():
        artefacts.write_bytes(figures / "ablation_prediction.svg", svg(figure(shown, args.model)))


def superpose(args: Arguments) -> None:
    """train toy models with more features than dimensions, and count how many a dictionary finds: table and figure"""
    _, root = configuration(args)
    reports, figures = (writable_folder(root / part) for part in ("reports", "figures"))
    from biology.dictionaries.superposition import superposition
    from biology.figures.drawing import styled, svg
    from biology.figures.superposition_figure import figure
    from biology.tables import write_table

    found = superposition()
    write_table(reports / "superposition.csv", found, "superposition")
    with styled():
        artefacts.write_bytes(figures / "superposition.svg", svg(figure(found)))


def draw_dictionary(args: Arguments) -> None:
    """draw one figure of a model's transcoders as dictionaries, as SVG and PNG"""
    from biology.figures.dictionary_figures import draw as drawn

    _, root = configuration(args)
    for form, data in drawn(args.figure, root / "data/runs" / args.model, args.model).items():
        artefacts.write_bytes(root / "figures" / args.model / f"{args.figure}.{form}", data)


def _passages(args: Arguments, config: Config, root: Path, model: Model, tokens: int) -> tuple[Passages, Passages]:
    """Held-out tokens on which to choose cuts, and others to measure on: the given text, else text beside the transcoders,
    else the model's held-out prompts, else those of its cases."""
    from biology.dictionaries.dictionary_metrics import Passages
    from biology.dictionaries.documents import HELD_OUT, read, read_held_out
    from biology.tables import evenly_spaced

    entry = config.model(args.model)
    beside = root / entry.transcoders / HELD_OUT
    if args.text or beside.is_file():
        if args.text:
            context, files = min(256, model.n_context), [Path(name) for name in args.text]
            rows = read(model, files, context=context, tokens=2 * tokens, held_out=context).train
        else:
            rows = read_held_out(beside)
        most = max(1, tokens // rows.shape[1])
        half = min(most, len(rows) // 2)
        chosen, scored = (Passages.of_text(part, model.bos_token) for part in (rows[:half], rows[half : half + most]))
        return chosen, scored
    prompts = held_out(root / entry.path, asked_cases(model, config, root, args.model))
    passages = []
    for dev in (True, False):
        part = prompts.loc[(prompts["split"] == "dev") == dev]
        part = part if len(part) else prompts
        each = evenly_spaced(part, PROMPTS)
        passages.append(Passages.of_prompts(model, each["prompt"].tolist(), each["answer"].tolist()))
    return passages[0], passages[1]
