"""Rewrites the config.pbtxt of each entry of a model repository, with the same parameters.

python -m ernie_wire model_repository
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from ernie_wire.tensors import config_pbtxt

_PARAMETER = re.compile(
    r'^parameters \{ key: "([^"]+)" value \{ string_value: "((?:[^"\\]|\\.)*)" \} \}$', re.M
)


def parameters_of(text: str) -> dict[str, str]:
    """Return the parameters in a config.pbtxt that ``config_pbtxt`` wrote."""
    return {key: re.sub(r"\\(.)", _unescape, value) for key, value in _PARAMETER.findall(text)}


def _unescape(escaped: re.Match[str]) -> str:
    return "\n" if escaped[1] == "n" else escaped[1]


def main(repository: Path) -> None:
    """Rewrite every entry of the repository."""
    for path in sorted(repository.glob("*/config.pbtxt")):
        path.write_text(config_pbtxt(path.parent.name, parameters_of(path.read_text())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
