"""Directories of transcoders: recognises the layouts in use by their files, reads them into one form, and writes two.

    circuit-tracer    config.yaml + layer_0.safetensors ...            (per layer)
                      config.yaml + W_enc_0.safetensors + W_dec_0.safetensors ... (+ skip.safetensors)   (cross layer)
    SAELens           layer_0/{cfg.json, sae_weights.safetensors} ...
    Gemma Scope       layer_0/width_16k/average_l0_76/params.npz ...
    Gemma Scope 2     layer_0_width_16k_l0_small_affine/{config.json, params.safetensors} ...   (per layer)
                      config.json + params_layer_0.safetensors ...                              (cross layer)
    sparsify          layers.0.mlp/{cfg.json, sae.safetensors} ...

Each layout is a module of its own, `layout_<name>.py`, and an entry of `LAYOUTS`; the one form is `Stored`.
"""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from biology.records import InputError, InputWarning
from biology.transcoders.layout_circuit_tracer import read_circuit_tracer, write_circuit_tracer
from biology.transcoders.layout_gemma_scope import read_gemma_scope, read_gemma_scope_2, read_gemma_scope_2_cross_layer
from biology.transcoders.layout_saelens import read_saelens, write_saelens
from biology.transcoders.layout_sparsify import read_sparsify
from biology.transcoders.stored import Stored, by_layer


class Layout(NamedTuple):
    """A layout that is recognised by a file for each layer."""

    name: str
    told_by: str
    """Pattern of these files, below the directory."""
    weights: str
    """Regular expression of the names of its weight files."""
    read: Callable[[list[Path]], Stored]
    """Its reader, given these files, one for each layer."""


CIRCUIT_TRACER = r"layer_\d+\.(safetensors|npz)|W_(enc|dec)_\d+\.safetensors|skip\.safetensors"
"""Names of the weight files of circuit-tracer's layouts, which are recognised by their config.yaml."""
LAYOUTS = (
    Layout("SAELens", "layer_*/cfg.json", r"sae_weights\.safetensors", read_saelens),
    Layout("sparsify", "*/sae.safetensors", r"sae\.safetensors", read_sparsify),
    Layout("Gemma Scope", "**/params.npz", r"params\.npz", read_gemma_scope),
    Layout("Gemma Scope 2", "**/params.safetensors", r"params\.safetensors", read_gemma_scope_2),
    Layout(
        "Gemma Scope 2", "**/params_layer_*.safetensors", r"params_layer_\d+\.(npz|safetensors)", read_gemma_scope_2_cross_layer,
    ),
)  # fmt: skip
"""All others, in the order of the search."""
OF_A_LAYOUT = re.compile("|".join([CIRCUIT_TRACER, *(layout.weights for layout in LAYOUTS)]))


def read_directory(path: Path, n_layers: int) -> Stored:
    """Reads a directory of transcoders for a model of `n_layers` layers; its files decide the layout.

    Raises:
        InputError: an unknown layout; a missing, duplicate or extra layer; a file that is missing, damaged or of another set;
            or a config that asks for something unsupported.
    """
    if not path.is_dir():
        raise InputError(f"transcoder directory {path} does not exist")
    stored = _read(path, n_layers)
    _account_for_all(path, stored)
    return stored


def layout_of(path: Path) -> str | None:
    """The name of a folder's layout, from file names alone; None if it holds no transcoders."""
    if (path / "config.yaml").is_file() and any(path.glob("*.safetensors")):
        return "circuit-tracer"
    return next((layout.name for layout in LAYOUTS if any(path.glob(layout.told_by))), None)


def _read(path: Path, n_layers: int) -> Stored:
    if (path / "config.yaml").is_file():
        return read_circuit_tracer(path, n_layers)
    for layout in LAYOUTS:
        files = sorted(path.glob(layout.told_by))
        if files:
            return layout.read(by_layer(path, files, n_layers))
    expected = ", ".join(["config.yaml", *(layout.told_by for layout in LAYOUTS)])
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
    raise InputError(
        f"{path} holds no transcoders in a known layout: expected {expected}; found {found} (docs/how_to/add_a_model.md)"
    )


def _account_for_all(path: Path, stored: Stored) -> None:
    """Refuses a second set of transcoders beside the one that was read, unless the config names its files. Warns of
    other unread weights."""
    read = {file.resolve() for file in (*stored.files, *stored.others)}
    lying = [file for pattern in ("**/*.safetensors", "**/*.npz") for file in sorted(path.glob(pattern))]
    unread = [file.relative_to(path) for file in lying if file.resolve() not in read]
    unread = [file for file in unread if not any(part.startswith(".") for part in file.parts)]
    if not unread:
        return
    shown = ", ".join(map(str, unread[:3])) + (f" and {len(unread) - 3} more" if len(unread) > 3 else "")
    of_a_set = any(OF_A_LAYOUT.fullmatch(file.name) for file in unread)
    if of_a_set and not stored.chosen:
        raise InputError(f"{path} holds a second set of transcoders ({shown}): keep one set per folder")
    warnings.warn(f"{path}: weights in {shown} are not used", InputWarning, stacklevel=3)


# Writing -------------------------------------------------------------------------------------------------------------

WRITTEN = (
    "config.yaml", "layer_*.safetensors", "W_enc_*.safetensors", "W_dec_*.safetensors", "skip.safetensors",
    "layer_*/cfg.json", "layer_*/sae_weights.safetensors",
)  # fmt: skip
"""Patterns of all files that `write_directory` writes; they are deleted from a folder before another set is written
there."""


def write_directory(path: Path, stored: Stored, *, layout: str, model_name: str) -> None:
    """Writes one of the layouts `saelens` (per layer, ReLU or JumpReLU) and `circuit-tracer` (all kinds).

    Every file is written whole, and the one by which the layout is recognised comes last.

    Raises:
        InputError: an unknown layout, or one that cannot hold this set.
    """
    writers = {"circuit-tracer": write_circuit_tracer, "saelens": write_saelens}
    if layout not in writers:
        raise InputError(f"unknown transcoder layout {layout!r}: expected 'saelens' or 'circuit-tracer'")
    writers[layout](path, stored, model_name)
