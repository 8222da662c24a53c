"""Files of Hugging Face Hub repositories: pinned to a commit, resumable, and verified against their hashes.

Torch-free. Each repository has a folder of its own. `fetched.json` is written there last, with the commit and the
SHA-256 of every file. Any failure is one `InputError`, and the next attempt resumes where this one stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from biology import artefacts
from biology.folders import foreign_files
from biology.model_sources import Repository
from biology.records import InputError

MODEL_FILES = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab.json",
    "merges.txt", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
RECORD = "fetched.json"
HOOKS = "config.yaml"
"""File in which `biology fetch` records the hooks of transcoders, if the repository does not give them."""
READ = (".safetensors", ".npz", ".json", ".yaml")
"""Suffixes of the files that are read."""


@dataclass(frozen=True)
class Remote:
    """A file of a repository: its size and its hash on the Hub (SHA-256, or git's SHA-1 for small files)."""

    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True)
class Listing:
    """The wanted files of a repository at one commit."""

    repository: Repository
    revision: str
    files: Mapping[str, Remote]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())


# What is wanted ------------------------------------------------------------------------------------------------------


def patterns(repository: Repository, n_layers: int) -> list[str]:
    """Names and patterns of the wanted files; for transcoders, one for each layer.

    Raises:
        InputError: SAELens' registry is needed for the names, and is not installed or does not have them.
    """
    found: list[str] = []
    for pattern in repository.files or (() if repository.release else MODEL_FILES):
        layers = range(n_layers) if "{layer}" in pattern else (0,)
        found += [pattern.replace("{layer}", str(i)).replace("{variant}", repository.variant) for i in layers]
    return found + (_of_release(repository, n_layers) if repository.release else [])


def _of_release(repository: Repository, n_layers: int) -> list[str]:
    """The file of each layer, according to SAELens' registry."""
    release = _registry().get(str(repository.release))
    if release is None or release["repo_id"] != repository.repo:
        raise InputError(f"the registry of SAELens has no release {repository.release!r} of {repository.repo}.")
    paths = {entry["id"]: str(entry["path"]) for entry in release["saes"]}
    found = []
    for layer in range(n_layers):
        name = f"layer_{layer}_{repository.variant}" if repository.variant else f"layer_{layer}"
        matching = [paths[key] for key in paths if key == name or key.startswith(f"{name}/")]
        if len(matching) != 1:
            raise InputError(
                f"the registry of SAELens has {len(matching)} sets of {repository.release!r} for layer {layer} "
                f"(looked for {name!r}); one is needed."
            )
        kinds = {"gemma_2_transcoder": ["params.npz"], "gemma_3": ["params.safetensors", "config.json"]}
        files = kinds.get(release["conversion_func"])
        found += [matching[0]] if files is None else [f"{matching[0]}/{file}" for file in files]
    return found


@cache
def _registry() -> dict[str, Any]:
    """SAELens' registry, read without importing the package, which takes seconds and imports torch."""
    import yaml

    package = find_spec("sae_lens")
    if package is None or not package.submodule_search_locations:
        raise InputError("sae-lens is not installed: install it, as its registry names the files of these transcoders.")
    text = (Path(package.submodule_search_locations[0]) / "pretrained_saes.yaml").read_text(encoding="utf-8")
    content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 (both are safe loaders)
    return content.get("releases", content)


def named_files(repository: Repository, n_layers: int) -> list[str]:
    """Wanted files that the entry itself names, known without network and registry."""
    named = repository.model_copy(update={"release": None})
    return [name for name in patterns(named, n_layers) if "*" not in name] if repository.files else []


# What is there -------------------------------------------------------------------------------------------------------


def record(folder: Path) -> dict[str, Any] | None:
    """The record of a completed download: `repo`, `revision` and `files` ({name: sha256}); None if there is none."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(f"{folder / RECORD} is damaged: delete it and run `biology fetch` again.") from None


def damaged(folder: Path, progress: bool = False) -> list[str]:
    """Names of recorded files that are missing or differ from the download."""
    files = (record(folder) or {"files": {}})["files"]
    return [
        name
        for name, digest in tqdm(files.items(), desc=f"{folder.name}: verifying", disable=not progress, unit="file")
        if not (folder / name).is_file() or artefacts.file_hash(folder / name) != digest
    ]


# Downloading ---------------------------------------------------------------------------------------------------------


def listing(repository: Repository, n_layers: int, revision: str | None) -> Listing:
    """The wanted files of a repository at a commit (by default the newest).

    Raises:
        InputError: no network, no such repository or commit, or a wanted file does not exist.
    """
    from huggingface_hub import HfApi

    with _told(repository, revision):
        found = HfApi().model_info(repository.repo, revision=revision, files_metadata=True, timeout=30)
    there = {
        entry.rfilename: Remote(entry.size or 0, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
        for entry in found.siblings or ()
    }
    files: dict[str, Remote] = {}
    for pattern in patterns(repository, n_layers):
        matching = [name for name in there if _matches(name, pattern)]
        if not matching and "*" not in pattern and pattern not in MODEL_FILES:
            raise InputError(f"{repository.repo} at {found.sha} has no file {pattern}.")
        files |= {name: there[name] for name in matching}
    weights = [name for name in files if name.endswith((".safetensors", ".npz"))]
    if not weights:
        raise InputError(
            f"{repository.repo} at {found.sha} has no weights in safetensors or npz; nothing else is read."
        )
    return Listing(repository, str(found.sha), files)


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def download(wanted: Listing, folder: Path) -> None:
    """Downloads the files of a listing into `folder`, verifies each, and records them; small files first.

    Files of an earlier download that are no longer wanted are deleted once everything wanted is there.

    Raises:
        InputError: a licence was not accepted, the connection broke, the disk is full, a file has another hash, or `folder`
            holds weights or settings that were not downloaded.
    """
    before = (record(folder) or {"files": {}})["files"]
    refuse_foreign_files(folder, {*before, *wanted.files})
    hashes: dict[str, str] = {}
    for name, remote in sorted(wanted.files.items(), key=lambda item: (item[1].size, item[0])):
        place = folder / name
        digest = artefacts.file_hash(place) if place.is_file() else None
        # a file that differs from its record or from the Hub is downloaded again
        if digest is None or before.get(name, digest) != digest or not _genuine(place, digest, remote):
            digest = _fetched(wanted, name, remote, place)
        hashes[name] = digest
    for name in before.keys() - hashes.keys():
        (folder / name).unlink(missing_ok=True)
    entry = {"repo": wanted.repository.repo, "revision": wanted.revision, "files": dict(sorted(hashes.items()))}
    artefacts.write_json(folder / RECORD, entry)


def refuse_foreign_files(folder: Path, known: Collection[str]) -> None:
    """Raises `InputError` if `folder` holds weights or settings that are not among the known files, since the layout of
    transcoders is recognised by the files in a folder."""
    other = [name for name in foreign_files(folder, {*known, RECORD, HOOKS}) if name.endswith(READ)]
    if other:
        raise InputError(
            f"{folder} holds {other[0]}, which was not downloaded but could be read as a part of what was: move it away."
        )


def _fetched(wanted: Listing, name: str, remote: Remote, place: Path) -> str:
    """Downloads one file and returns its SHA-256. After a failure the part that arrived is kept, and the next attempt
    resumes there (the client's own `hf_hub_download` starts every file again)."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.{(remote.sha256 or remote.blob or wanted.revision)[:12]}.partial")
    url = hf_hub_url(wanted.repository.repo, name, revision=wanted.revision)
    with _told(wanted.repository, wanted.revision), partial.open("ab") as file:
        http_get(url, file, resume_size=file.tell(), headers=build_hf_headers(), expected_size=remote.size)
    digest = artefacts.file_hash(partial)
    if not _genuine(partial, digest, remote):
        partial.unlink()
        raise InputError(
            f"{wanted.repository.repo}: {name} arrived damaged (its hash is not that of the Hub) and was deleted; "
            "run `biology fetch` again."
        )
    partial.replace(place)
    return digest


def _genuine(file: Path, digest: str, remote: Remote) -> bool:
    if remote.sha256 is not None:
        return digest == remote.sha256
    data = file.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 (git's name of a file)
    return remote.blob in (None, blob)


def missing_bytes(wanted: Listing, folder: Path) -> int:
    """Bytes of a listing that are not on disk yet."""
    return sum(remote.size for name, remote in wanted.files.items() if not _has_size(folder / name, remote.size))


def _has_size(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


@contextmanager
def _told(repository: Repository, revision: str | None) -> Iterator[None]:
    """One line on what failed while talking to the Hub, and what to do."""
    from huggingface_hub import constants, errors

    address = f"{constants.ENDPOINT}/{repository.repo}"
    again = "run `biology fetch` again, and it goes on where it stopped."
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(
            f"{repository.repo} asks for a licence: open {address}, log in, accept it, then run `hf auth login` here once "
            "and the same command again."
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{repository.repo} has no revision {revision}: see {address}/commits/main.") from None
    except errors.RepositoryNotFoundError:
        hint = " It is gated: `hf auth login` with an account that accepted its licence." if repository.gated else ""
        raise InputError(f"{address} does not exist, or you have no access to it.{hint}") from None
    except errors.OfflineModeIsEnabled:
        raise InputError(
            f"{repository.repo} is not here, and HF_HUB_OFFLINE forbids downloading it: unset it."
        ) from None
    except errors.LocalEntryNotFoundError:
        raise InputError(f"no connection to {constants.ENDPOINT} for {repository.repo}: {again}") from None
    except errors.HfHubHTTPError as error:
        raise InputError(f"{address}: {str(error).splitlines()[0]}; {again}") from None
    except OSError as error:
        if error.errno in artefacts.FULL:
            raise InputError(f"the disk is full ({repository.repo} is unfinished): make room, then {again}") from None
        raise InputError(f"{repository.repo}: {str(error).splitlines()[0]}; {again}") from None
    except Exception as error:
        if type(error).__module__.split(".")[0] not in _CONNECTIONS:
            raise
        raise InputError(
            f"no connection to {constants.ENDPOINT} for {repository.repo} ({type(error).__name__}): {again}"
        ) from None


_CONNECTIONS: Sequence[str] = ("httpx", "httpx2", "httpcore", "httpcore2")
