"""Folders that hold one result: checked before the work, replaced whole after it, written by one process at a time.

A command owns the files whose names it writes, and no others. It refuses a folder that holds any other file, so that
the files in a folder never come from two runs. New files are first written to a folder inside it; when all are there,
the old ones are deleted and the new ones moved into place. A killed run leaves the old result, or an incomplete one
that the reader refuses by name, but never a mixture.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from biology.records import InputError

FIRST_STAGE = "first_stage"
"""In the folder of a model that is grown in two stages: the model after the first one."""
STAGED = ".staged"
"""Subfolder in which the new files wait. It belongs to the command that owns the folder, as does what a killed run left
in it."""
_HELD = ExitStack()
"""Locks that are released when this process ends."""


def foreign_files(folder: Path, owned: Collection[str]) -> list[str]:
    """Relative names, sorted, of the files below `folder` that match none of the patterns. `*` does not cross a slash;
    a pattern that ends in a slash matches everything below it."""
    files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = [path.relative_to(folder).as_posix() for path in files]
    return sorted(name for name in names if not _matches(name, [*owned, f"{STAGED}/"]))


def _matches(name: str, patterns: Collection[str]) -> bool:
    def one(pattern: str) -> bool:
        if pattern.endswith("/"):
            return name.startswith(pattern)
        return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)

    return any(map(one, patterns))


def claim(folder: Path, owned: Collection[str], command: str) -> None:
    """Checks that `command`, which writes files matching `owned`, may write into `folder`. Writes nothing.

    Raises:
        InputError: the folder holds files of other names.
    """
    other = foreign_files(folder, owned)
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        raise InputError(
            f"{folder} holds {other[0]}{more}, not written by `biology {command}`: name another folder, or empty this one."
        )


@contextmanager
def replaced(folder: Path, owned: Collection[str], command: str, beside: Collection[str] = ()) -> Iterator[Path]:
    """Yields an empty folder for new files. When the block ends without an error, they replace all files of `folder`
    that match `owned`. Files that match `beside` may be there and stay.

    Raises:
        InputError: `claim` refuses the folder, or another process is writing to it.
    """
    claim(folder, [*owned, *beside], command)
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    staged = folder / STAGED
    busy = f"another `biology {command}` is writing {folder}: wait for it, or name another folder"
    try:
        with locked(staged / "lock", busy):
            new = staged / "new"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            try:
                yield new
                _remove(folder, owned)
                for path in sorted(path for path in new.rglob("*") if path.is_file()):
                    place = folder / path.relative_to(new)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, place)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
    finally:
        for one in made:  # a failed command leaves no new folders
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


def _remove(folder: Path, owned: Collection[str]) -> None:
    """Deletes the matching files, and the folders that this leaves empty."""
    for path in sorted(folder.rglob("*"), reverse=True):  # contents come before their folder
        name = path.relative_to(folder).as_posix()
        if name == STAGED or name.startswith(f"{STAGED}/"):
            continue
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif _matches(name, owned):
            path.unlink()


def hold(path: Path | str, busy: str) -> None:
    """Locks the file `path` until this process ends. Raises as `locked` does."""
    _HELD.enter_context(locked(Path(path), busy))


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Locks the file `path`, creating it if needed. A file left behind by a killed process is not locked.

    Raises:
        InputError: another process holds the lock; `busy` is the message.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
        yield  # in a folder that cannot be written to, there is no other writer
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = " ".join(file.read(200).split()) or "unknown"
            raise InputError(f"{busy} (process {holder}).") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
                raise
            print(f"warning: {path}: no locks on this file system, so start nothing else here", file=sys.stderr)
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
