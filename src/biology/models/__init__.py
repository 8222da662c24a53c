"""A language model: found or downloaded, checked, loaded, hooked and run.

`model.load_model`, `encode`, `run` and `capture` are what other rooms use. `bridge` is the only module that knows transformer_lens,
`weights` gives norms, heads and unembedding as plain matrices, `memory` foretells what a model needs. `hub`, `packages`, `memory` and
`text` do without torch.
"""
