"""A language model: found or downloaded, checked, loaded, hooked and run.

Other rooms use `model.load_model`, `encode`, `run` and `capture`. `bridge` is the only module that imports transformer_lens,
`weights` gives norms, heads and unembedding as plain matrices, `memory` estimates what a model needs. `gguf_files`, `hub`,
`memory`, `packages` and `text` need no torch.
"""
