"""Training settings, and checkpoints from which an interrupted run continues to the same weights."""

# pyright: reportArgumentType=false

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file

from biology.artefacts import write_tensors
from biology.records import InputError


class Settings:
    """All that decides a training run except its seed and data; a dataclass."""

    def hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def save(path: Path, identity: dict[str, str], model, optimiser, step: int, curve: list[dict]) -> None:
    """Writes a checkpoint of a training, from which `restore` continues."""
    tensors = {f"model.{name}": value.detach().cpu().clone() for name, value in model.named_parameters()}
    # by key: a restored optimiser has them in another order
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value).cpu().clone() for name, value in state.items()}
    write_tensors(path, tensors, {**identity, "step": str(step), "curve": json.dumps(curve)})


def restore(path: Path, identity: dict[str, str], model, optimiser) -> tuple[int, list[dict]]:
    """The step to continue from and the learning curve so far; (0, []) without a checkpoint."""
    if not path.exists():
        return 0, []
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    found = {key: metadata.get(key) for key in identity}
    if found != identity:
        raise InputError(
            f"{path} is a checkpoint of {found}, not of {identity}: remove it or choose another seed's folder"
        )
    tensors = load_file(path)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(tensors[f"model.{name}"])
    state = optimiser.state_dict()
    for key, value in tensors.items():
        kind, _, place = key.partition(".")
        if kind == "optimiser":
            index, _, name = place.partition(".")
            state["state"].setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(state)
    return int(metadata["step"]), json.loads(metadata["curve"])
