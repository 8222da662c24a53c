"""Reads a page as a test does: what can be linked, what it links, and the words on it."""

import re
from html.parser import HTMLParser


class Reader(HTMLParser):
    """Ids, links, sources and visible text of a page; complains about what is not closed."""

    VOID = {"meta", "img", "br", "link", "input"}

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids, self.links, self.sources, self.text, self.open = [], [], [], [], []
        self.tags = []
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))
