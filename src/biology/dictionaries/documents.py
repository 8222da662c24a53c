"""Text files as token sequences of equal length, with a part held out.

A document ends at `<|endoftext|>`, which may be on a line of its own, or at the end of its file. A document longer than `PIECE`
characters is cut at line ends, so that no file has to fit into memory. The hash of a piece decides whether it is held out: the
split depends on the text alone, and duplicates of a text are on the same side. Pieces follow one another, each after the
model's first token (BOS); this stream is cut into sequences, each of which also begins with that token.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from biology.models.model import Model
from biology.models.tokenizer import unknown
from biology.records import InputError

END = "<|endoftext|>"
PIECE = 4096
ONE_IN = 10
"""One piece in this many is held out."""
MOST_UNKNOWN = 0.05
HELD_OUT = "held_out.parquet"
"""File with the held-out sequences of a training, beside its transcoders."""


@dataclass(frozen=True, eq=False)
class Documents:
    """Token ids [sequence, context] to train on and to measure on, with their source."""

    train: np.ndarray
    held_out: np.ndarray
    n_pieces: int
    unknown: float
    """Share of tokens that the tokenizer does not know (of characters that it drops, if it has no unknown token)."""

    def digest(self) -> str:
        """A hash of all tokens."""
        return hashlib.sha256(self.train.tobytes() + self.held_out.tobytes()).hexdigest()[:16]


def pieces(paths: Sequence[Path]) -> Iterator[str]:
    """The documents of some UTF-8 files, long ones in pieces.

    Raises:
        InputError: a file is missing or is not text.
    """
    for path in paths:
        held: list[str] = []
        size = 0
        try:
            with path.open(encoding="utf-8") as lines:
                for part, ended in ((part, place > 0) for line in lines for place, part in enumerate(line.split(END))):
                    if held and (ended or size + len(part) > PIECE):
                        yield "".join(held)
                        held, size = [], 0
                    if not part.strip() and (ended or not part):
                        continue  # this line holds only the mark
                    for start in range(0, len(part), PIECE):
                        if held and start:
                            yield "".join(held)
                            held, size = [], 0
                        held.append(part[start : start + PIECE])
                        size += len(held[-1])
        except UnicodeDecodeError:
            raise InputError(f"{path} is not UTF-8 text: give plain text files") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        if held:
            yield "".join(held)


def is_held_out(piece: str) -> bool:
    """Whether a piece of text is kept for measuring: its hash decides so for one in `ONE_IN`."""
    return int.from_bytes(hashlib.sha256(piece.encode("utf-8")).digest()[:8], "big") % ONE_IN == 0


def read(
    model: Model, paths: Sequence[Path], *, context: int, tokens: int | None = None, held_out: int = 50_000,
    progress: bool = True,
) -> Documents:  # fmt: skip
    """Sequences of `context` tokens: at most `tokens` tokens to train on and `held_out` to measure on. The files are read only
    as far as needed.

    Raises:
        InputError: no tokenizer, a file that cannot be read, too little text for training or for measuring, or a text whose
            words are mostly unknown to the tokenizer.
    """
    tokenizer, first = model.tokenizer, model.bos_token
    if tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer in {model.path}: a text cannot be read without one")
    head = [] if first is None else [first]
    body = context - len(head)
    sides: dict[bool, list[list[int]]] = {False: [], True: []}
    waiting: dict[bool, list[int]] = {False: [], True: []}
    most = {False: None if tokens is None else -(-tokens // context), True: -(-held_out // context)}
    n_pieces = n_tokens = n_unknown = 0
    with tqdm(desc="reading text", unit="token", disable=not progress, mininterval=5) as bar:
        for piece in pieces(paths):
            if most[False] is not None and all(len(sides[side]) >= (most[side] or 0) for side in sides):
                break
            side = is_held_out(piece)
            encoding = tokenizer(piece, add_special_tokens=False, verbose=False)
            ids = list(encoding["input_ids"])
            n_pieces, n_tokens = n_pieces + 1, n_tokens + len(ids)
            n_unknown += len(unknown(tokenizer, piece, encoding))
            bar.update(len(ids))
            stream = waiting[side]
            stream += (head if stream else []) + ids
            while len(stream) >= body and (most[side] is None or len(sides[side]) < most[side]):
                sides[side].append(head + stream[:body])
                del stream[:body]
    texts = ", ".join(map(str, paths))
    if n_unknown > MOST_UNKNOWN * n_tokens:
        raise InputError(f"{texts}: the tokenizer of {model.name} does not know {n_unknown / n_tokens:.0%} of the text")
    for side, name in ((False, "to train on"), (True, "held out")):
        if not sides[side]:
            raise InputError(
                f"{texts}: {n_tokens} tokens in {n_pieces} pieces leave no sequence of {context} tokens {name}: give more "
                f"text (documents end at {END}), or a smaller --context"
            )
    train, test = (np.array(sides[side], dtype=np.int32) for side in (False, True))
    return Documents(train, test, n_pieces, n_unknown / n_tokens)


def read_held_out(path: Path) -> np.ndarray:
    """The held-out sequences [sequence, context] that a training saved beside its transcoders.

    Raises:
        InputError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return np.array(pq.read_table(path).column("ids").to_pylist(), dtype=np.int32)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} holds no token sequences: {' '.join(str(error).split())}") from None
