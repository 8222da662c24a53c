"""Text becomes sequences of equal length behind the first token; what is held out depends on the text alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from biology.dictionaries.documents import END, PIECE, is_held_out, pieces, read, read_held_out
from biology.dictionaries.sampling import BATCH, _at_once
from biology.records import InputError


def write(path, documents):
    path.write_text("".join(f"{text}\n{END}\n" for text in documents), encoding="utf-8")
    return path


@pytest.fixture
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(f"w{word}" for word in rng.integers(0, 96, 20)) for _ in range(200)]


def test_documents_end_at_their_line_and_long_ones_at_line_ends(tmp_path):
    path = write(tmp_path / "a.txt", ["one\ntwo", "three"])
    assert list(pieces([path, path])) == ["one\ntwo\n", "three\n"] * 2
    long = "".join(f"line {number}\n" for number in range(2000))
    path.write_text(long, encoding="utf-8")
    found = list(pieces([path]))
    assert "".join(found) == long and len(found) > 3
    assert all(len(piece) <= PIECE and piece.endswith("\n") for piece in found)
    path.write_text("x" * (2 * PIECE + 5), encoding="utf-8")  # a line that never ends
    assert [len(piece) for piece in pieces([path])] == [PIECE, PIECE, 5]
    path.write_text(f"one{END}two\n\nthree {END} \n{END}four{END}\n\n{END}\n", encoding="utf-8")  # inside of lines
    assert list(pieces([path])) == ["one", "two\n\nthree ", "four", "\n"]


def test_sequences_begin_with_the_first_token_and_hold_the_text_in_order(tiny_model, tmp_path, texts):
    model = tiny_model("llama")
    found = read(model, [write(tmp_path / "a.txt", texts)], context=16, progress=False)
    for side, held in ((found.train, False), (found.held_out, True)):
        assert side.shape[1] == 16 and (side[:, 0] == 2).all()
        expected = []
        for text in [text for text in texts if is_held_out(text + "\n") == held]:
            expected += ([2] if expected else []) + [int(word[1:]) + 4 for word in text.split()]
        assert side[:, 1:].flatten().tolist() == expected[: side.shape[0] * 15] and len(expected) - side.size < 16
    assert 0.02 < len(found.held_out) / len(found.train) < 0.3 and found.unknown == 0


def test_what_is_held_out_depends_on_the_text_alone(tiny_model, tmp_path, texts):
    """Neither order nor repetition moves a document to the other side."""
    model = tiny_model("llama")
    turned = read(model, [write(tmp_path / "b.txt", texts[::-1] + texts)], context=4, progress=False)
    for text in texts:
        row = [int(word[1:]) + 4 for word in text.split()]
        mine, other = (turned.held_out, turned.train) if is_held_out(text + "\n") else (turned.train, turned.held_out)
        assert str(row[4:7])[1:-1] not in str(other[:, 1:].tolist()) or str(row[4:7])[1:-1] in str(mine[:, 1:].tolist())


def test_reading_stops_when_there_is_enough(tiny_model, tmp_path, texts):
    model = tiny_model("llama")
    path = write(tmp_path / "a.txt", texts)
    few = read(model, [path], context=16, tokens=64, held_out=32, progress=False)
    assert few.train.shape == (4, 16) and few.held_out.shape == (2, 16)
    whole = read(model, [path], context=16, progress=False)
    assert (whole.train[:4] == few.train).all() and whole.digest() != few.digest()


def test_a_token_for_unknown_words_is_known_where_the_text_says_it(tiny_model, tmp_path, texts):
    found = read(
        tiny_model("llama"),
        [write(tmp_path / "a.txt", [f"<unk> {text} zebra" for text in texts])],
        context=16,
        progress=False,
    )
    assert abs(found.unknown - 1 / 22) < 1e-9


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"w1 w2\n", "give more text"), (b"\xff\xfe\x00", "is not UTF-8 text"), (None, "cannot be read"), (b"no such words\n" * 900, "does not know")],
)  # fmt: skip
def test_a_useless_text_is_refused_in_one_line(tiny_model, tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tiny_model("llama"), [path], context=16, progress=False)


def test_damaged_held_out_sequences_are_refused(tmp_path):
    (tmp_path / "held_out.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match="holds no token sequences"):
        read_held_out(tmp_path / "held_out.parquet")


def test_a_large_model_writes_fewer_documents_at_a_time_than_a_small_one():
    """By its sizes alone: keys and values of 30 layers of 3 heads of 64 for 1,024 tokens in float32 take 45 MiB."""
    sizes = {
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "hidden_size": 576,
        "num_hidden_layers": 30,
    }
    assert _at_once(SimpleNamespace(**sizes), 1024, 4) == (1 << 30) // (45 << 20) == 22
    assert _at_once(SimpleNamespace(**sizes | {"num_hidden_layers": 30_000}), 1024, 4) == 1
    small = SimpleNamespace(num_attention_heads=8, num_key_value_heads=4, hidden_size=64, num_hidden_layers=5)
    assert _at_once(small, 512, 4) == BATCH  # stories260K, whose text is what it was
