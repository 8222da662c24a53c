"""The text of the Snakefile with that of the files it includes, in their order."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _with_included(match: re.Match) -> str:
    return (ROOT / match[1]).read_text(encoding="utf-8")


SNAKEFILE = re.sub(
    r'^include: "(.+?)".*$', _with_included, (ROOT / "Snakefile").read_text(encoding="utf-8"), flags=re.MULTILINE
)
RULES = {
    name: text for name, text in re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", SNAKEFILE, flags=re.MULTILINE | re.DOTALL)
}
"""By name: what a rule says."""
