"""Runs a case on a loaded model, without files: `fresh_context` runs its prompts and finds its supernodes (as the stages `cache` and
`group` do), `unperturbed_evidence` and `perturbed_evidence` measure all its experiments (as the stages `attribute` and `intervene` do)."""

from __future__ import annotations

import pandas as pd

from biology.cases.case import Case
from biology.cases.found_sites import with_found_sites
from biology.config import AttributionConfig, StatisticsConfig
from biology.evidence.case_context import CaseContext
from biology.evidence.census import run_census
from biology.evidence.graph_tables import Reduced, reduce_graphs
from biology.evidence.line_evidence import run_lines
from biology.evidence.operand_tables import read_grid
from biology.evidence.perturbation import run_experiments
from biology.evidence.score_evidence import run_attention
from biology.evidence.sharing import reduce_sharing
from biology.models.model import Model
from biology.supernodes.behaviour import prompts_table
from biology.supernodes.grouping import group
from biology.supernodes.site_search import find_sites
from biology.tables import stacked
from biology.transcoders.transcoder_set import TranscoderSet


def fresh_context(model: Model, transcoders: TranscoderSet, case: Case, statistics: StatisticsConfig) -> CaseContext:
    """A context for all experiments of a case; its table `members` covers every scored or named prompt and every donor."""
    features, prompts = prompts_table(model, transcoders, case)
    case = with_found_sites(case, find_sites(model, case, prompts, statistics.seed))
    operands, _ = read_grid(model, transcoders, case, prompts, features, statistics.seed)
    members = group(model, transcoders, case, prompts, features, operands)
    return CaseContext(model, case, prompts, statistics, transcoders, members, features, operands)


def unperturbed_evidence(context: CaseContext, settings: AttributionConfig) -> tuple[Reduced, pd.DataFrame]:
    """Graphs as tables, and `evidence` of the experiments that perturb nothing: those on graphs, and on what languages share."""
    reduced = reduce_graphs(context, settings)
    return reduced, stacked([reduced.evidence, reduce_sharing(context)])


def perturbed_evidence(context: CaseContext) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `evidence` and `panel` of the experiments that hold features, write lines, count active features or
    change attention scores."""
    evidence, panel = run_experiments(context)
    lines, written = run_lines(context)
    return stacked([evidence, lines, run_census(context), run_attention(context)]), stacked([panel, written])
