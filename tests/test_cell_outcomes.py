"""Outcomes about cells: planted rows say what was kept and what has changed."""

import pandas as pd
import pytest
import torch

from biology.evidence.outcomes import cell_names, kept_masks, levels, read_cells
from biology.records import InputError

PROMPTS = pd.DataFrame(
    [
        ("small", "opposite", "en", 10), ("small", "opposite", "fr", 11), ("small", "synonym", "en", 12),
        ("hot", "opposite", "en", 13), ("hot", "opposite", "fr", 14),
    ],
    columns=["concept", "relation", "language", "answer_token"],
).assign(role="score")  # fmt: skip


def test_kept_is_the_answer_of_another_prompt_that_shares_the_factors():
    masks = kept_masks(["kept:concept+relation", "answer_top1", "kept:language"], PROMPTS, [0], 20, "case")
    assert list(masks) == ["kept:concept+relation", "kept:language"]
    assert masks["kept:concept+relation"][0].nonzero().flatten().tolist() == [11]  # its language has changed, no more
    assert masks["kept:language"][0].nonzero().flatten().tolist() == [12, 13]


def test_what_is_only_shown_by_name_has_no_say():
    shown = PROMPTS.iloc[[0]].assign(answer_token=15, role="show")
    masks = kept_masks(["kept:language"], pd.concat([PROMPTS, shown], ignore_index=True), [0], 20, "case")
    assert masks["kept:language"][0].nonzero().flatten().tolist() == [12, 13]


def test_an_answer_that_has_not_changed_is_not_kept():
    twice = pd.concat([PROMPTS, PROMPTS.iloc[[0]]], ignore_index=True)  # the same answer under the same factors
    assert kept_masks(["kept:concept+relation"], twice, [0], 20, "case")["kept:concept+relation"][0, 10] == 0


def test_rows_are_read_in_the_order_of_the_names():
    outcomes = ["level_top1:expected", "level_probability:expected", "kept:concept+relation"]
    assert levels(outcomes) == ["expected"]
    masks = kept_masks(outcomes, PROMPTS, [0, 3], 20, "case")
    probability = torch.zeros(3, 20, dtype=torch.float64)
    probability[0, 12], probability[1, 11], probability[2, 14] = 0.9, 0.8, 0.7
    item = torch.tensor([0, 0, 1])
    numbers = read_cells(item, probability.argmax(-1), probability, torch.tensor([[12], [10]]), masks)
    read = dict(zip(cell_names(["expected"], masks), torch.stack(numbers).tolist(), strict=True))
    assert read["level_top1:expected"] == [1, 0, 0]
    assert read["level_probability:expected"] == [0.9, 0, 0]
    assert read["kept:concept+relation"] == [0, 1, 1]


def test_an_unknown_factor_is_named():
    with pytest.raises(InputError, match="case x: outcome 'kept:colour': no prompt has the factor 'colour'"):
        kept_masks(["kept:colour"], PROMPTS, [0], 20, "case x")
