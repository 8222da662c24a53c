"""What the configs of sparsify ask for is done, or refused in one line."""

import json

import miniatures
import pytest
import torch
from safetensors.torch import load_file, save_file

from biology.records import InputError
from biology.transcoders.layouts import read_directory


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"transcode": False}, "transcode is False: this is an autoencoder"),
        ({"activation": "groupmax"}, "activation 'groupmax' is not supported, only topk"),
        ({"normalize_io": True}, "normalize_io: True is not supported: these transcoders would be misread"),
        ({"skip_connection": False}, "skip_connection is False, which the weights do not fit"),
        ({"d_in": 31}, "48 latents of 31 inputs, and its weights have 48 of 32"),
        ({"num_latents": 50}, "50 latents of 32 inputs"),
        ({"k": None}, "k is None, not a number"),
        ({"k": 7}, "layers have different k: 6, 7"),
    ],
)
def test_what_a_sparsify_config_asks_for_is_done_or_refused(tmp_path, keys, message):
    miniatures.write_transcoders(tmp_path, "sparsify skip")
    file = tmp_path / "layers.1.mlp/cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    with pytest.raises(InputError, match=message):
        read_directory(tmp_path, 2)


def test_a_sparsify_set_of_another_convention_or_module_is_refused(tmp_path):
    miniatures.write_transcoders(tmp_path, "sparsify")
    file = tmp_path / "layers.0.mlp/sae.safetensors"
    whole = load_file(file)
    save_file(whole | {"in_norm": torch.ones(1)}, file)
    with pytest.raises(InputError, match="in_norm is no tensor of a transcoder that is read here"):
        read_directory(tmp_path, 2)
    save_file(whole, file)
    read_directory(tmp_path, 2)
    (tmp_path / "layers.1.mlp").rename(tmp_path / "layers.1.mlp.up_proj")
    with pytest.raises(InputError, match="only transcoders of whole MLPs are read"):
        read_directory(tmp_path, 2)
