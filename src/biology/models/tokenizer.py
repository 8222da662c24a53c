"""The tokenizer of a model directory: opened without remote code, and checked for text that it cannot express."""

from pathlib import Path
from typing import Any

from biology.models.checkpoint import quiet
from biology.records import InputError


def open_tokenizer(path: Path) -> Any:
    """The directory's tokenizer, or None if it has none.

    Raises:
        InputError: the tokenizer's files are damaged.
    """
    import transformers

    file = path / "tokenizer.json"
    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        return None
    with quiet(transformers):
        try:
            return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the library raises bare Exceptions for damaged files
            if not file.is_file():
                raise InputError(f"cannot read the tokenizer in {path}: {str(error).splitlines()[0]}") from None
        try:
            return transformers.PreTrainedTokenizerFast(tokenizer_file=str(file))
        except Exception as error:
            raise InputError(f"{file} is damaged: {str(error).splitlines()[0]}") from None


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that are not text: those with a role (BOS, padding), and those added as special, such as the marks of a
    chat."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {int(token) for token, piece in added if piece.special}


def unknown(tokenizer: Any, text: str, encoding: Any) -> list[str]:
    """The parts of `text` that the tokenizer cannot express, given its `encoding` of the text.

    If its unknown token also has a meaning of its own (GPT-2's `<|endoftext|>`), a text may contain that token itself.
    A tokenizer without an unknown token drops the characters that it has no piece for.
    """
    ids, token = encoding["input_ids"], tokenizer.unk_token_id
    if token is None:
        return _left_out(tokenizer, text, encoding)
    if token not in ids:
        return []
    if not tokenizer.is_fast:
        return [text] * (ids.count(token) - text.count(tokenizer.unk_token))
    spans = [encoding.token_to_chars(place) for place, one in enumerate(ids) if one == token]
    parts = [text if span is None else text[span.start : span.end] for span in spans]
    return [part for part in parts if part.strip() != tokenizer.unk_token]


def _left_out(tokenizer: Any, text: str, encoding: Any) -> list[str]:
    """The characters that have no token, if the tokens do not cover the text (the tokenizer does not say which it
    drops)."""
    if not tokenizer.is_fast:
        return []
    missing = bytearray(b"\1") * len(text)
    for start, end in encoding.encodings[0].offsets:
        missing[start:end] = bytes(end - start)
    if not any(gone and not letter.isspace() for letter, gone in zip(text, missing, strict=True)):
        return []
    letters = {letter for letter in text if not letter.isspace()}
    lost = {letter for letter in letters if not tokenizer(letter, add_special_tokens=False)["input_ids"]}
    return [letter for letter in text if letter in lost]


def in_chat(tokenizer: Any, model: str, text: str, asked_by: str = "--chat") -> str:
    """The text as a user's message in the model's chat template, up to where its answer begins; `model` is the model's
    name, `asked_by` the word by which the user asked for it.

    Raises:
        InputError: the model has no chat template, or its template accepts no such message.
    """
    if tokenizer is None or not tokenizer.chat_template:
        raise InputError(f"model {model} has no chat template: ask it without {asked_by}")
    message = [{"role": "user", "content": text}]
    try:
        return str(tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # the template is the model's own and may raise anything
        raise InputError(f"model {model}: its chat template takes no message: {str(error).splitlines()[0]}") from None
