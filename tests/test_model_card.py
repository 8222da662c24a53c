"""The card of a downloaded model says what its files say."""

import pandas as pd

from biology.findings.model_card import card
from biology.model_sources import Shape

SHAPE = Shape(
    architecture="llama", n_layers=30, d_model=576, n_heads=9, n_key_value_heads=3, d_head=64, d_mlp=1536, n_vocab=49152, tied=True
)  # fmt: skip
MANIFEST = {
    "model": "small", "dtype": "float32", "device": "cpu", "sources": {"package 1.0": "0123456789abcdef"},
    "quantised": "dequantised from a.gguf (2 Q4_1)", "transcoders": {"name": "neurons, 32 at a token"},
    "gates": {"The capital of France is": True, "One and one is": False},
}  # fmt: skip


def rows(text, heading):
    section = text.split(f"## {heading}")[1].split("## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line.startswith("|")
    ][2:]


def test_a_card_says_what_the_tables_say():
    passing = pd.DataFrame(
        [
            ["addition", "calc", "dev", 20, 19, 19, 2, "'1' 1"],
            ["addition", "calc", "heldout", 90, 68, 60, 8, float("nan")],
        ],
        columns=["case", "set", "split", "prompts", "answered", "with_donors", "templates", "said_instead"],
    )
    metric = "influence_foretells_ablation"
    fidelity = pd.DataFrame(
        [("all", "all", metric, 0.7), ("all", "all", f"{metric}_low", 0.6), ("all", "all", f"{metric}_high", 0.75),
         ("all", "addition", metric, 0.1), ("3", "all", metric, 0.2)],
        columns=["layer", "behaviour", "metric", "value"],
    )  # fmt: skip
    verdicts = pd.DataFrame({"case": ["addition"] * 3, "verdict": ["replicated", "untestable", "untestable"]})
    text = card(MANIFEST, SHAPE, 134_515_008, passing, fidelity, verdicts)
    assert "| parameters | 134,515,008 |" in text and "dequantised from a.gguf" in text
    assert "“The capital of France is”" in text and "One and one" not in text
    assert rows(text, "What it answers")[1] == ["addition", "calc", "heldout", "90", "68", "60", "8", ""]
    assert rows(text, "Does its graph foretell") == [["influence in the graph", "0.70", "[0.60, 0.75]"]]
    assert rows(text, "Verdicts") == [["addition", "1", "0", "0", "2"]]
