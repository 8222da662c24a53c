"""Transcoders: per layer, cross layer, or the model's own neurons; read from any layout on disk, and applied.

`transcoder_files.load_transcoders` reads a directory (a layout is one module, `layout_<name>`), `neurons.neuron_set` takes the MLPs' own
units, `transcoder_set.TranscoderSet` is both. `activations.cache_features` says which features are active on many prompts.
"""
