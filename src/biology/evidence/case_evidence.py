"""Runs a case on a loaded model, without files: `fresh_context` runs its prompts and finds its supernodes (as the stages `cache` and
`group` do), `unperturbed_evidence` and `perturbed_evidence` measure all its experiments (as the stages `attribute` and `intervene` do)."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from biology.cases.case import Case
from biology.cases.experiments import Attention, Census
from biology.cases.found_sites import with_found_sites
from biology.cases.perturbations import Exchange, Perturbation
from biology.config import AttributionConfig, StatisticsConfig
from biology.evidence.case_context import CaseContext
from biology.evidence.census import run_census
from biology.evidence.graph_tables import Reduced, reduce_graphs
from biology.evidence.line_evidence import run_lines
from biology.evidence.operand_tables import read_grid
from biology.evidence.perturbation import in_turn, run_experiments
from biology.evidence.score_evidence import run_attention
from biology.evidence.sharing import reduce_sharing
from biology.models.model import Model
from biology.records import InputError
from biology.supernodes.behaviour import prompts_table
from biology.supernodes.case_prompts import in_chats
from biology.supernodes.grouping import Finder, group
from biology.supernodes.site_search import find_sites
from biology.tables import stacked, validate_table
from biology.transcoders.activations import FeatureCache
from biology.transcoders.transcoder_set import TranscoderSet


class FoundSupernodes(NamedTuple):
    """The case with the sites that were found, and tables `sites`, `operands`, `operand_plots` and `supernodes`."""

    case: Case
    sites: pd.DataFrame
    operands: pd.DataFrame
    plots: pd.DataFrame
    members: pd.DataFrame


def find_supernodes(
    model: Model, transcoders: TranscoderSet, case: Case, prompts: pd.DataFrame, features: FeatureCache, seed: int
) -> FoundSupernodes:
    """Sites, operand plots and members of a case whose prompts have been run (what the stage `group` does)."""
    sites = find_sites(Finder(model, case, prompts, transcoders, features), seed)
    case = with_found_sites(case, sites)
    operands, plots = read_grid(model, transcoders, case, prompts, features, seed)
    return FoundSupernodes(case, sites, operands, plots, group(model, transcoders, case, prompts, features, operands))


def fresh_context(model: Model, transcoders: TranscoderSet, case: Case, statistics: StatisticsConfig) -> CaseContext:
    """A context for all experiments of a case; its table `members` covers every scored or named prompt and every donor."""
    case = in_chats(model, case)
    features, prompts = prompts_table(model, transcoders, case)
    found = find_supernodes(model, transcoders, case, prompts, features, statistics.seed)
    return CaseContext(model, found.case, prompts, statistics, transcoders, found.members, features, found.operands)


def unperturbed_evidence(
    context: CaseContext, settings: AttributionConfig, variables: Collection[str] = frozenset()
) -> tuple[Reduced, pd.DataFrame]:
    """Graphs as tables, and `evidence` of the experiments that perturb nothing: those on graphs, and on what languages share.
    `variables` are the supernodes that stand for variables of the case's causal model."""
    reduced = reduce_graphs(context, settings, variables)
    return reduced, stacked([reduced.evidence, reduce_sharing(context)])


def perturbed_evidence(context: CaseContext, cores: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `evidence` and `panel` of the experiments that hold features, write lines, count active features or
    change attention scores.

    Experiments do not depend on each other, so several `cores` may share them; the tables are the same. Their processes are forked,
    which only a model on the CPU that computes in one thread allows; for any other, one process measures all.

    Raises:
        InputError: a process died, probably for lack of memory.
    """
    groups = _groups(context.case)
    forkable = context.model.device.type == "cpu" and torch.get_num_threads() == 1 and sys.platform == "linux"
    several = cores > 1 and forkable and len(groups) > 1
    found = _forked(context, groups, cores) if several else [_perturbed(context)]
    evidence, lines, counted, scores, panel, written = map(stacked, zip(*found, strict=True))
    if several:
        evidence, lines, counted, scores = (
            validate_table(one, "evidence") for one in (evidence, lines, counted, scores)
        )
        panel = _in_order(context.case, panel)
    return stacked([evidence, lines, counted, scores]), stacked([panel, written])


def _perturbed(context: CaseContext) -> tuple[pd.DataFrame, ...]:
    evidence, panel = run_experiments(context)
    lines, written = run_lines(context)
    return evidence, lines, run_census(context), run_attention(context), panel, written


def _groups(case: Case) -> list[list[str]]:
    """What can be measured by itself: an experiment, with those that take its strength."""
    groups: dict[str, list[str]] = {}
    for name, experiment in case.of_kind(Perturbation, Exchange, Census, Attention).items():
        groups.setdefault((*experiment.rests_on, name)[0], []).append(name)
    return list(groups.values())


def _forked(context: CaseContext, groups: list[list[str]], cores: int) -> list[tuple[pd.DataFrame, ...]]:
    fork = multiprocessing.get_context("fork")
    try:  # a forked process has the model and the prompts; only names and tables are sent
        with ProcessPoolExecutor(
            min(cores, len(groups)), fork, initializer=_inherited.append, initargs=(context,)
        ) as pool:
            return list(pool.map(_alone, groups))
    except BrokenProcessPool:
        raise InputError(
            f"case {context.case.name}: a process that perturbed {context.model.name} was ended, probably for lack of memory: "
            "give it fewer cores"
        ) from None


_inherited: list[CaseContext] = []
"""In a forked process: the context that it was made with."""


def _alone(names: list[str]) -> tuple[pd.DataFrame, ...]:
    (context,) = _inherited
    experiments = {name: context.case.experiments[name] for name in names}
    return _perturbed(replace(context, case=context.case.model_copy(update={"experiments": experiments})))


def _in_order(case: Case, panel: pd.DataFrame) -> pd.DataFrame:
    """A panel in the order in which `run_experiments` measures all experiments of a case."""
    place = {name: number for number, name in enumerate(in_turn(case))}
    order = np.argsort([place[name] for name in panel["experiment"]], kind="stable")
    return panel.iloc[order].reset_index(drop=True)
