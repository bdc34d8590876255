"""FastDeploy's flags and environment variables that are taken without effect here, or refused: fastdeploy.json.

A flag is a row ``[name, values, FastDeploy's default, meaning, meaning in Chinese, neutral values ...]`` under
the reason that it shares with others. Its values are ``N`` (integer), ``X`` (number), ``JSON`` (object), words
with ``|`` between them, nothing or ``on|off`` (a switch, or one with its opposite), or a placeholder for any
text, with ``...`` for several.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ernie_backend.settings.kinds import Choice, Integer, Kind, Number, String, Switch
from ernie_cli.flags.flag import Flag, Group, JsonObject, LocalizedText, NoEffect, Refused

_DATA: Mapping[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
_KINDS: Mapping[str, Kind] = {
    "N": Integer(-1, 1 << 63),
    "X": Number(float("-inf")),
    "JSON": JsonObject(),
    "": Switch(),
    "on|off": Switch(has_opposite=True),
}


def _group(effect: type[NoEffect | Refused], en: str, zh: str) -> Group:
    return Group(LocalizedText(en, zh), tuple(_flags(effect)))


def _flags(effect: type[NoEffect | Refused]) -> Iterator[Flag]:
    for reason in _DATA["no_effect" if effect is NoEffect else "refused"]:
        why = LocalizedText(*reason["why"])
        for name, values, default, en, zh, *neutral in reason["flags"]:
            yield Flag(
                name,
                _kind(values.removesuffix("...")),
                default,
                "none",
                LocalizedText(en, zh),
                Refused(why, tuple(neutral)) if effect is Refused else NoEffect(why),
                many="+" if values.endswith("...") else "",
            )


def _kind(values: str) -> Kind:
    if values in _KINDS:
        return _KINDS[values]
    return Choice(tuple(values.split("|"))) if "|" in values else String(values)


NO_EFFECT = _group(NoEffect, "Flags of FastDeploy without effect here", "在此处无作用的 FastDeploy 参数")
REFUSED = _group(Refused, "Flags of FastDeploy that are refused", "被拒绝的 FastDeploy 参数")
VARIABLES: Mapping[str, LocalizedText] = {
    name: LocalizedText(*reason["why"]) for reason in _DATA["variables"] for name in reason["names"]
}
"""Variables of FastDeploy alone, and why they have no effect: one that is set is noticed."""
USUAL_VARIABLES: Mapping[str, LocalizedText] = {
    name: LocalizedText(*reason["why"]) for reason in _DATA["usual_variables"] for name in reason["names"]
}
"""Variables that are set for other programs, too: no effect and no notice."""
