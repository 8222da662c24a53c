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
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from biology.records import InputError

STAGED = ".staged"
"""Where the new files wait, inside the folder that they are for. Whoever owns the folder owns what a killed run left there."""
_HELD = ExitStack()
"""Locks that end with this process."""


def strangers(folder: Path, owned: Collection[str]) -> list[str]:
    """Names (relative, sorted) of the files below `folder` that match none of the patterns. `*` does not cross a slash, and
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
    """Makes sure that `command`, which writes files of the names `owned`, may write into `folder`. Nothing is written here.

    Raises:
        InputError: it holds files of other names.
    """
    other = strangers(folder, owned)
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        raise InputError(
            f"{folder} holds {other[0]}{more}, not written by `biology {command}`: name another folder, or empty this one."
        )


@contextmanager
def replaced(folder: Path, owned: Collection[str], command: str, beside: Collection[str] = ()) -> Iterator[Path]:
    """An empty folder for new files; when the block ends without an error, they replace all files of `folder` that match
    `owned`. Files that match `beside` may lie there and stay.

    Raises:
        InputError: `claim` refuses the folder, or another process is at work in it.
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
        for one in made:  # of a command that failed nothing remains
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


def _remove(folder: Path, owned: Collection[str]) -> None:
    """Deletes the files that match, and the folders that are empty then."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what lies in a folder comes before it
        name = path.relative_to(folder).as_posix()
        if name == STAGED or name.startswith(f"{STAGED}/"):
            continue
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif _matches(name, owned):
            path.unlink()


def hold(path: Path | str, busy: str) -> None:
    """Locks the file `path` for as long as this process lives, however it ends. Raises as `locked` does."""
    _HELD.enter_context(locked(Path(path), busy))


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Locks the file `path`, which is made if it is not there. A file that is left behind locks nothing.

    Raises:
        InputError: another process holds it; `busy` says what that means and what to do.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
        yield  # where nothing can be written, nobody is disturbed
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
