"""Output of commands for programs: one JSON document instead of words (`--json`)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

JSON: dict[str, dict[str, Any]] = {
    "--json": {"action": "store_true", "help": "print one JSON document in the place of words"}
}
"""The option `--json`, as the table of commands declares it."""


def print_json(data: Any) -> None:
    """Prints one JSON document. NaN and infinity become null, as JSON has no word for them."""
    print(json.dumps(_plain(data), ensure_ascii=False, allow_nan=False, indent=1))


def print_table(frame: pd.DataFrame, as_json: bool) -> None:
    """Prints a table in columns, or as a JSON list of its rows."""
    if as_json:
        print_json(frame.to_dict("records"))
    else:
        print(frame.to_string(index=False))


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    if hasattr(data, "item"):  # a number of numpy
        data = data.item()
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data if data is None or isinstance(data, (str, int, float)) else str(data)
