"""What a command line may say, checked before any work: numbers within their bounds, and places that can be written to."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from biology.records import InputError

SEEDS = 2**32 - 1
"""The largest seed that every generator takes."""


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line, as all others are. Raises `InputError`."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removeprefix('argument ')} (`{self.prog} --help` lists the options)")


def integer(least: int | None = None, most: int | None = None) -> Callable[[str], int]:
    """A type of options: whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes a whole number, not '{text}'") from None
        if least is not None and number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {text}")
        if most is not None and number > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, not {text}")
        return number

    return read


def integer_or(word: str, least: int) -> Callable[[str], int | str]:
    """A type of options: whole numbers from `least`, or one word."""
    number = integer(least)
    return lambda text: word if text == word else number(text)


def real(least: float = -math.inf, *, above: float = -math.inf) -> Callable[[str], float]:
    """A type of options: finite numbers, from `least` on or beyond `above`."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes a number, not '{text}'") from None
        if not math.isfinite(number):
            raise argparse.ArgumentTypeError(f"takes a finite number, not '{text}'")
        if number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least:g}, not {text}")
        if number <= above:
            raise argparse.ArgumentTypeError(f"must be more than {above:g}, not {text}")
        return number

    return read


def writable_folder(folder: Path) -> Path:
    """The folder, which need not exist yet. Raises `InputError` unless files can be written to it; leaves nothing there."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise InputError(f"nothing can be written to {folder}: {there} is no folder. Name another one.")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"nothing can be written to {folder}: {there}: {error.strerror}. Name another folder."
        ) from None
    return folder


def writable_file(path: Path) -> Path:
    """The path of a file, which may exist. Raises `InputError` if it is a folder, or unless its folder can be written to."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file to write.")
    writable_folder(path.parent)
    return path
