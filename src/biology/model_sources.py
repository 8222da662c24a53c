"""Where a model and its transcoders are downloaded from, and what is known before: the keys `hub`, `package` and
`shape` of an entry."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from biology.records import Strict

HUB = Path("data/hub")
"""Folder of downloaded models and transcoders, relative to the folder of `config.yaml`."""


class Repository(Strict):
    """The files wanted from a repository of the Hugging Face Hub."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """The commit. If none is given, the first download takes the newest commit and records it beside the files."""
    files: tuple[str, ...] = ()
    """Names or patterns (`*` does not cross a slash). `{layer}` is replaced by each layer, `{variant}` by `variant`."""
    release: str | None = None
    """Instead of `files`: a release in SAELens's registry, which names one file for each layer."""
    variant: str = ""
    """Which set, if the repository holds several."""
    gated: bool = False
    """Whether a licence must be accepted on the Hub first."""
    stored: Literal["float32", "float16", "bfloat16"] = "float32"

    @property
    def folder(self) -> Path:
        """Where its files are kept, relative to the folder of `config.yaml`."""
        return HUB / "--".join(filter(None, [*self.repo.split("/"), self.variant]))


class HubTranscoders(Repository):
    """A published set of transcoders. Its own files decide which hooks and shapes are used."""

    kind: Literal["per_layer", "cross_layer"] = "per_layer"
    features: int | None = Field(default=None, gt=0)
    """Features per layer. If unknown, memory is estimated from the sizes of the files on the Hub."""
    skip: bool = False
    reads: str | None = None
    writes: str | None = None
    """Hooks within a block that the files must name, if known before the download."""


class Shape(Strict):
    """The sizes of a decoder-only transformer with grouped heads and a gated MLP."""

    architecture: str
    n_layers: int
    d_model: int
    n_heads: int
    n_key_value_heads: int
    d_head: int
    d_mlp: int
    n_vocab: int
    tied: bool
    """Whether the unembedding is the embedding."""


class Hub(Strict):
    """A model of the Hugging Face Hub and its transcoders, with what is known before the download."""

    model: Repository
    transcoders: HubTranscoders
    shape: Shape
    gates: dict[str, str] = {}
    """Prompts, each with the answer that an undamaged copy of the model gives."""


class Package(Strict):
    """A model as a GGUF file in a Python package, for machines that reach only a package index. `gguf_files` converts
    it to a directory."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    version: str = Field(pattern=r"^[A-Za-z0-9.+!]+$")
    file: str
    """The GGUF file, by its path in the wheel."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of that file."""
    shape: Shape
    gates: dict[str, str] = {}
    """Prompts, each with the answer that an undamaged copy of the model gives."""

    @property
    def repo(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def revision(self) -> str:
        return self.sha256

    @property
    def folder(self) -> Path:
        """Where the converted directory is kept, relative to the folder of `config.yaml`."""
        return HUB / f"{self.name}-{self.version}"
