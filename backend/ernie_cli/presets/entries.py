"""The Triton entries of the text models: each is a row of the table, under a name of its own.

They name no weights: those are looked for in ``$ERNIE_MODEL_ROOT/<entry>``, and without them an entry loads as
unconfigured.
"""

from __future__ import annotations

from collections.abc import Mapping

from ernie_cli.presets.rows import ROWS
from ernie_cli.serve.settings import engine_parameters

ENTRIES: Mapping[str, str] = {
    "ernie-4.5-0.3b": "ernie-4.5-0.3b-wint8-32k",
    "ernie-4.5-21b-a3b": "ernie-4.5-21b-a3b-wint4-32k",
    "ernie-4.5-300b-a47b": "ernie-4.5-300b-a47b-wint4-32k-tp4",
    "ernie-4.5-300b-a47b-w4a8c8-tp4": "ernie-4.5-300b-a47b-w4a8-32k-tp4",
}
"""Entry -> its row: the recommended one of 32K where there are several."""


def entry_parameters(entry: str) -> dict[str, str]:
    """Return the parameters in the config.pbtxt of an entry."""
    return engine_parameters(ROWS[ENTRIES[entry]].options)
