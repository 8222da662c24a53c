"""The tokenizer of elegans: one token per word, except names of cities, which are written in pieces."""

import itertools
import re
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from biology.corpora.corpus import Corpus

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
# What one token can be: a newline, a number, a run of letters of any script, or a single other sign.
TOKEN = r"\n|\d+|[^\W\d]+|[^\w\s]"
LONGEST_PIECE = 5  # smallest length of a piece of a city's name, in letters


@cache
def split_names(names: tuple[str, ...], groups: tuple[str, ...], shared: int = 3) -> dict[str, tuple[str, ...]]:
    """Cuts every word of the names into pieces that are shared by at least ``shared`` groups (places) where possible.

    A city name of one token would have a trained embedding that holds its state; transcoder features would merely read
    it out. Pieces shared by several places leave the look-up to the MLPs. Starting from every cut, the piece with the
    fewest users is removed repeatedly, until only shared pieces are left or a word would have no cut.
    """

    def cuts(word: str) -> list[tuple[str, ...]]:
        options = []
        for n in range(1 if len(word) <= 4 else 2, 6 if len(word) > 8 else 5):
            for ends in itertools.combinations(range(1, len(word)), n - 1):
                pieces = [word[a:b] for a, b in itertools.pairwise((0, *ends, len(word)))]
                if all(len(piece) <= LONGEST_PIECE for piece in pieces):
                    options.append((pieces[0], *("##" + piece for piece in pieces[1:])))
        return options

    places: dict[str, set[str]] = {}
    for name, group in zip(names, groups, strict=True):
        for word in name.split():
            places.setdefault(word, set()).add(group)
    alone = {name for name in names if " " not in name}  # a name of one word must be cut
    options = {word: [cut for cut in cuts(word) if len(cut) > 1 or word not in alone] for word in sorted(places)}
    for threshold in range(2, shared + 1):
        while True:
            users: dict[str, set[str]] = {}
            for word, choices in options.items():
                for piece in {piece for choice in choices for piece in choice}:
                    users.setdefault(piece, set()).update(places[word])
            rare = {piece for piece, found in users.items() if len(found) < threshold}
            kept = {word: [c for c in choices if rare.isdisjoint(c)] or choices for word, choices in options.items()}
            if kept == options:
                break
            options = kept

    def best(users: dict[str, set[str]]) -> dict[str, tuple[str, ...]]:
        def worth(cut: tuple[str, ...]) -> tuple[float, tuple[str, ...]]:
            found = [len(users.get(piece, ())) for piece in cut]
            return sum(min(n, 2 * shared) for n in found) / len(cut) - 4.0 * len(cut) - 20.0 * (
                min(found) < shared
            ), cut

        return {word: max(choices, key=worth) for word, choices in options.items()}

    chosen = best(users)
    for _ in range(10):  # settle on cuts whose pieces are used by other chosen cuts
        users = {}
        for word, cut in chosen.items():
            for piece in cut:
                users.setdefault(piece, set()).update(places[word])
        chosen = best(users)
    return chosen


def _any_of(names: set[str]) -> str:
    """A pattern that matches any of these names, the longest first; grouped by first letters, as re tries alternatives
    one by one."""
    of: dict[str, list[str]] = {}
    for name in sorted(names, key=len, reverse=True):
        of.setdefault(name[0], []).append(re.escape(name[1:]))
    return "|".join(f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in of.items())


def tokenizer(corpus: Corpus) -> Tokenizer:
    """Word-level tokenizer (WordPiece that splits only the cities), with ``<bos>`` in front.

    A word outside the vocabulary is ``<unk>``. Answers of several words ("Salt Lake City") are one token.
    """
    pieces = split_names(tuple(corpus.cities.city), tuple(corpus.cities.place))
    answers = set(corpus.facts.answer) | set(corpus.facts.place)
    phrases = sorted(answer for answer in answers if len(re.findall(TOKEN, answer)) > 1)
    words: dict[str, None] = dict.fromkeys(SPECIAL)
    words |= dict.fromkeys(map(str, range(199)))
    blank = re.compile(rf"\b(?:{_any_of({*phrases, *corpus.cities.city})})\b")
    plain: set[str] = set()
    for text in corpus.texts():
        plain.update(re.findall(TOKEN, blank.sub(" ", text)))
    words |= dict.fromkeys(sorted(plain - set(words)))
    words |= dict.fromkeys(sorted({piece for cut in pieces.values() for piece in cut} - set(words)))
    vocabulary = {word: index for index, word in enumerate(words)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", max_input_chars_per_word=100))  # type: ignore[arg-type]
    made.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), behavior="removed", invert=True)  # type: ignore[assignment]
    made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    made.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # type: ignore[assignment]
    made.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    made.add_tokens([AddedToken(phrase, single_word=True, normalized=False) for phrase in phrases])
    return made
