"""Texts that people write for pages, such as the README of a case: Markdown as HTML, with all of its content escaped; and which texts
of the repository are pages themselves."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

TEXTS = {
    "glossary": ("Glossary", "GLOSSARY.md"),
    "add_a_prompt": ("Add a prompt", "docs/how_to/add_a_prompt.md"),
    "docs": ("Documentation", "docs/index.md"),
}
"""Texts of the repository that are pages beside the index: by name their title, and the file."""
WIDE = '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
"""A table in a box of its own that scrolls and can be reached by keyboard."""


class _Renderer(RendererHTML):
    """Renders HTML in the form that the pages need."""

    def table_open(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return WIDE + self.renderToken(tokens, index, options, env)

    def table_close(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return self.renderToken(tokens, index, options, env).rstrip() + "</div>\n"

    def fence(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return super().fence(tokens, index, options, env).replace("<pre>", '<pre tabindex="0">', 1)

    def code_block(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return super().code_block(tokens, index, options, env).replace("<pre>", '<pre tabindex="0">', 1)


_MARKDOWN = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table").disable("image")


def text_files(*folders: Path) -> dict[str, Path]:
    """The files of `TEXTS` by name, each in the first of the folders that has it; a text that none has is left out."""
    places = {name: [folder / place for folder in folders] for name, (_, place) in TEXTS.items()}
    return {name: path for name, paths in places.items() for path in [path for path in paths if path.is_file()][:1]}


def prose(text: str, base: str = "", level: int = 3) -> Markup:
    """A Markdown text without its title (CommonMark, with tables and without pictures; HTML in it is shown as text).

    Args:
        base: prefix for relative addresses, such as `../../experiments/addition/`.
        level: heading level for the first headings below the title, those of two hashes.
    """
    tokens = _MARKDOWN.parse(text)
    if len(tokens) > 2 and (tokens[0].type, tokens[0].tag) == ("heading_open", "h1"):
        tokens = tokens[3:]
    for token in tokens:
        if token.type.startswith("heading"):
            token.tag = f"h{min(6, int(token.tag[1:]) + level - 2)}"
        for inner in token.children or ():
            address = str(inner.attrGet("href") or "") if inner.type == "link_open" else ""
            if address and ":" not in address and not address.startswith(("#", "/")):
                inner.attrSet("href", posixpath.normpath(base + address))
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))
