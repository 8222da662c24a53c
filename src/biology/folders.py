"""Folders that hold one result: claimed before the work, replaced whole after it, written by one process at a time.

A command owns the files whose names it writes, and no others. It refuses a folder in which anything else lies, so that what
is read from a folder was never put together from two runs. The new files are staged inside the folder; when all are there, the
old ones are deleted and the new ones renamed into their places. Whatever is killed leaves the old result, or an
incomplete one that is refused by name where it is read, but never a mixture.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from biology.config import InputError

STAGED = ".staged"
"""Where the new files wait, inside the folder that they are for; a part of what every command owns."""
_HELD: list[IO[str]] = []
"""Locks of this process; they end with it."""


def strangers(folder: Path, owned: Collection[str]) -> list[str]:
    """Names (relative, sorted) of the files below `folder` that match none of the patterns; `*` does not cross a slash, and
    a pattern that ends in a slash stands for all that lies below it."""
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
    """Makes sure that `command` may write a result into `folder`; nothing is written.

    Raises:
        InputError: it is a file, or holds files that `command` does not write.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: `biology {command}` writes a folder, so name another one.")
    other = strangers(folder, owned)
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        raise InputError(
            f"{folder} holds {other[0]}{more}, not written by `biology {command}`: name another folder, or empty this one."
        )


@contextmanager
def replaced(folder: Path, owned: Collection[str], command: str) -> Iterator[Path]:
    """A staging folder; when the block ends without an error, what lies in it replaces all files of `folder` that match
    `owned`.

    Raises:
        InputError: `folder` is a file, or holds files that `command` does not write.
    """
    claim(folder, owned, command)
    staged = folder / STAGED
    shutil.rmtree(staged, ignore_errors=True)
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    staged.mkdir(parents=True)
    try:
        yield staged
        new = sorted(path for path in staged.rglob("*") if path.is_file())
        for path in sorted(folder.rglob("*"), reverse=True):  # files before the folders that they lie in
            name = path.relative_to(folder).as_posix()
            if name.split("/")[0] == STAGED:
                continue
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif _matches(name, owned):
                path.unlink()
        for path in new:
            place = folder / path.relative_to(staged)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        for one in made:  # of a command that failed nothing remains
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


def hold(path: Path | str, busy: str) -> None:
    """Locks the file `path` for as long as this process lives, however it ends; what is left of the file locks nothing.

    Raises:
        InputError: another process holds it; `busy` says what that means and what to do.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS):
            return  # where nobody can write, nobody is disturbed
        raise
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = " ".join(file.read(200).split()) or "unknown"
        file.close()
        raise InputError(f"{busy} (process {holder}).") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
        print(f"warning: {path}: this file system knows no locks; start nothing else here meanwhile", file=sys.stderr)
    file.truncate(0)
    file.write(f"{os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _HELD.append(file)
