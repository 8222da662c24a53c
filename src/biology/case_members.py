"""The supernodes of a case on a model that is at hand, found now: what the stages `cache` and `group` do, without their files."""

from __future__ import annotations

import pandas as pd

from biology.behaviour import prompts_table
from biology.case import Case
from biology.locating import find_sites
from biology.model import Model
from biology.operand_tables import read_grid
from biology.settled import settled
from biology.supernodes import group
from biology.transcoders import TranscoderSet


def find_members(model: Model, transcoders: TranscoderSet, case: Case, seed: int) -> pd.DataFrame:
    """Table `supernodes`, for every prompt of the case that is scored, shown or a donor."""
    features, prompts = prompts_table(model, transcoders, case)
    case = settled(case, find_sites(model, case, prompts, seed))
    operands, _ = read_grid(model, transcoders, case, prompts, features, seed)
    return group(model, transcoders, case, prompts, features, operands)
