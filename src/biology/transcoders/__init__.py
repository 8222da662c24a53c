"""Transcoders: per-layer, cross-layer, or the model's own neurons; read from any layout on disk, and applied.

`transcoder_files.load_transcoders` reads a directory (one module `layout_<name>` for each layout), `neurons.neuron_set` takes the
neurons of the MLPs; both give a `transcoder_set.TranscoderSet`. `activations.cache_features` lists the active features of many
prompts.
"""
