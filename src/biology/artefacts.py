"""Writes files whole or not at all, and hashes their contents.

A file is written under a temporary name in the same folder and renamed when it is complete, so that a killed job leaves
no half-written file. The same contents give the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers that mean: a disk, a quota or a size limit leaves no room."""
BARRED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
"""Error numbers that mean: this path cannot be read or written."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole, or not at all."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes text in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Writes JSON. Raises ValueError for NaN or infinity."""
    write_text(path, indented(data) + "\n")


def indented(data: Any, level: int = 0) -> str:
    """`json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1)`, several times as fast: with an indent Python encodes value by
    value. Lists of records without further lists in them, which is what graphs are, are encoded at once and then broken into lines."""
    outer, inner = "\n" + " " * level, "\n" + " " * (level + 1)
    if isinstance(data, dict) and data:
        if not all(isinstance(key, str) for key in data):
            return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1).replace("\n", outer)
        parts = [f"{json.dumps(key, ensure_ascii=False)}: {indented(value, level + 1)}" for key, value in data.items()]
        return f"{{{inner}{f',{inner}'.join(parts)}{outer}}}"
    if isinstance(data, list | tuple) and data:
        if all(isinstance(one, dict) and one for one in data) and _flat(
            value for one in data for value in one.values()
        ):
            deeper = "\n" + " " * (level + 2)
            text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(f",{deeper}", ": "))
            # a line break inside a string is written as two other signs, so this stands between two records only
            text = text[2:-2].replace(f"}},{deeper}{{", f"{inner}}},{inner}{{{deeper}")
            return f"[{inner}{{{deeper}{text}{inner}}}{outer}]"
        if _flat(data):
            text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(f",{inner}", ": "))
            return f"[{inner}{text[1:-1]}{outer}]"
        return f"[{inner}{f',{inner}'.join(indented(one, level + 1) for one in data)}{outer}]"
    return json.dumps(data, ensure_ascii=False, allow_nan=False)


def _flat(values: Iterable[Any]) -> bool:
    return not any(issubclass(kind, (dict, list, tuple)) for kind in set(map(type, values)))


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Writes torch tensors as a safetensors file. If the disk is full, raises `OSError` with that error number."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with whole(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as for any other file: safetensors makes its files private
        try:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, metadata)
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))  # a full disk must be reported as one
            if code is None:
                raise
            raise OSError(int(code[1]), str(error)) from None
        temporary.chmod(mode)


def read_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, by name."""
    from safetensors.torch import load_file

    return load_file(path)


def write_columns(path: Path, columns: Mapping[str, list[Any]]) -> None:
    """Writes plain columns as a parquet file, without a schema of `tables.py`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with whole(path) as temporary:
        pq.write_table(pa.table(dict(columns)), temporary)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents_hash(folder: Path, *patterns: str) -> str:
    """SHA-256 over names and contents of the files below `folder` that match one of the patterns."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_hash(path)}\n".encode())
    return digest.hexdigest()
