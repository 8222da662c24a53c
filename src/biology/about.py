"""What stands in a bug report: versions, machine, and the configuration that commands would read. Starts no torch."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from biology import __version__
from biology.config import CONFIG_FILE, config_file, load_config
from biology.records import InputError

PACKAGES = (
    "torch",
    "transformers",
    "transformer-lens",
    "tokenizers",
    "safetensors",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "snakemake",
)
"""Packages that numbers, or whether a command runs at all, depend on."""


def about(config: str = CONFIG_FILE) -> dict[str, Any]:
    """Versions from the metadata of packages (None where one is missing), the machine, and the configuration with its models.

    A configuration that cannot be read is part of the answer (`error`), since a bug report may be about it.
    """
    path = config_file(config, shipped=True)
    found: dict[str, Any] = {"file": str(path)}
    try:
        found["models"] = list(load_config(path).models)
    except InputError as error:
        found["error"] = str(error)
    return {
        "biology": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "packages": {name: _version(name) for name in PACKAGES},
        "config": found,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
