"""A case on a model that is at hand, prompts run and supernodes found now: what the stages `cache` and `group` do, without their files."""

from __future__ import annotations

from biology.behaviour import prompts_table
from biology.bench import Bench
from biology.case import Case
from biology.config import StatisticsConfig
from biology.locating import find_sites
from biology.model import Model
from biology.operand_tables import read_grid
from biology.settled import settled
from biology.supernodes import group
from biology.transcoders import TranscoderSet


def fresh_bench(model: Model, transcoders: TranscoderSet, case: Case, statistics: StatisticsConfig) -> Bench:
    """Everything that experiments on a case need; its table `members` has every prompt that is scored, shown or a donor."""
    features, prompts = prompts_table(model, transcoders, case)
    case = settled(case, find_sites(model, case, prompts, statistics.seed))
    operands, _ = read_grid(model, transcoders, case, prompts, features, statistics.seed)
    members = group(model, transcoders, case, prompts, features, operands)
    return Bench(model, case, prompts, statistics, transcoders, members, features, operands)
