"""biology: reruns the case studies of *On the Biology of a Large Language Model* on open models.

Families of models: GPT-2, Llama, Qwen3, Gemma 2 and Gemma 3 (`models/bridge.py`).

Importing this package does not import torch. CONTRIBUTING.md lists its rooms (packages); each room's `__init__.py` says
what it is for.

Names of dimensions in the shapes of all docstrings and annotations:

    batch row       independent prompts, or rows of one forward pass
    layer           transformer block
    pos             token position; `source` and `target` where two are needed
    d_model         residual stream
    head d_head     attention heads (grouped-query heads expanded) and their width
    vocab           tokens of the vocabulary
    feature         features of one transcoder layer
    active          active features of one prompt, listed as (layer, pos, feature)
    node            nodes of an attribution graph: features | errors | tokens | logits
"""

__version__ = "0.2.0"

OFFERED = ("attribute", "case", "intervene", "load", "matched_controls")
"""What a notebook needs, all from `api.py`. The first of these names to be used imports torch."""


def __getattr__(name: str):
    if name not in OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("biology.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *OFFERED])
