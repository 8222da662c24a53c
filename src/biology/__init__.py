"""biology: regenerates the case studies of *On the Biology of a Large Language Model* on any open model.

Importing this package imports no torch. Names of dimensions in the shapes of all docstrings and annotations:

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

__version__ = "0.1.0"
