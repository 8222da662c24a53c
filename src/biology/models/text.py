"""Tokens as text: the separator between a prompt and its answer, and how tokens are shown to a reader."""

import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

UNSPACED = (
    "CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "FULLWIDTH", "BOPOMOFO", "THAI", "LAO", "KHMER",
    "MYANMAR", "TIBETAN", "TAI ", "NEW TAI", "JAVANESE",
)  # fmt: skip
"""Beginnings of the Unicode names of characters in scripts that put no space between words."""
PAUSES = frozenset(",;:!?،؛؟")
"""Marks after which a word begins with a space, in scripts that use spaces."""


def separators(prompt: str, answer: str) -> tuple[str, ...]:
    """Possible separators between a prompt and its answer, in the order in which to try them.

    In scripts with spaces, only a space may follow a letter or digit: "was" and "as" are two words, not "was" continued. In
    a script without spaces the answer follows directly. After a quote, a bracket, a sign or a line break it may follow
    directly too. Only the two characters that meet decide.
    """
    last, first = unicodedata.normalize("NFC", prompt)[-1:], unicodedata.normalize("NFC", answer)[:1]
    if not _in_word(first) or _unspaced(last):
        return "", " "
    if _in_word(last):
        return (" ", "") if _unspaced(first) else (" ",)
    return (" ", "") if last in PAUSES and first.isalpha() and not _unspaced(first) else ("", " ")


def _in_word(character: str) -> bool:
    """Whether it is a letter, a digit, or a mark on one (in Devanagari, words may end in marks)."""
    return bool(character) and unicodedata.category(character)[0] in "LNM"


def _unspaced(character: str) -> bool:
    return _in_word(character) and unicodedata.name(character, "").startswith(UNSPACED)


def piece_text(tokenizer: Any, token: int) -> str | None:
    """The text of one token with its leading space; bytes that form no whole letter as `<0xF0>`. None if the token has no
    text."""
    piece = tokenizer.convert_ids_to_tokens(int(token))
    if piece is None:
        return None
    if "\u2581" in piece:  # SentencePiece writes a space as a low block, and decode() would strip it
        return piece.replace("\u2581", " ")
    text = tokenizer.decode([int(token)], clean_up_tokenization_spaces=False)
    return _with_bytes(piece, text) if "\ufffd" in text else text


def _with_bytes(piece: str, text: str) -> str:
    """The text of a piece, with each byte that `text`, its decoding, has lost. Once decoded, all such pieces look alike."""
    if re.fullmatch("<0x[0-9A-F]{2}>", piece):  # how SentencePiece writes a byte
        return piece
    alphabet = _byte_alphabet()
    if not alphabet.keys() >= set(piece):
        return text
    found = bytes(alphabet[character] for character in piece).decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda lone: f"<0x{ord(lone[0]) - 0xDC00:02X}>", found)


@cache
def _byte_alphabet() -> dict[str, int]:
    """The byte for each character of byte-level BPE: printable bytes are themselves, the others are U+0100 and following
    (GPT-2, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(rest)}


def visible(text: str) -> str:
    """A text on one line, with line breaks and control characters escaped as in a Python string."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda control: repr(control[0])[1:-1], text)


def words(tokens: Sequence[str]) -> list[range]:
    """The places of each word's tokens, where the tokenizer marks continued pieces (`Da`, `##lla`, `##s`); else every token by itself."""
    starts = [place for place, token in enumerate(tokens) if not (place and _goes_on(token))]
    return [range(first, last) for first, last in pairwise([*starts, len(tokens)])]


def _goes_on(token: str) -> bool:
    """Whether a token continues the word of the one before."""
    return token.startswith("##")


def whole_word(tokens: Sequence[str], place: int) -> str:
    """The word that a token is a piece of, if the tokenizer marks continued pieces (`Da`, `##lla`, `##s`: Dallas); else the
    token."""
    first, last = place, place + 1
    while first > 0 and _goes_on(tokens[first]):
        first -= 1
    while last < len(tokens) and _goes_on(tokens[last]):
        last += 1
    return "".join(piece.removeprefix("##") for piece in tokens[first:last]) if last - first > 1 else tokens[place]


def continuation(tokenizer: Any, before: Sequence[int], after: Sequence[int]) -> str:
    """The text that the tokens `after` add to the text of those `before`. Decoded together, since a token alone may lose
    its space or be a part of a letter."""
    start, whole = (
        str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)) for ids in (before, [*before, *after])
    )
    return whole[len(os.path.commonprefix([start, whole])) :]
