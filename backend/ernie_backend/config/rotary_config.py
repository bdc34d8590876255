"""How queries and keys are rotated, read from config.json.

Positions of media have three axes: 0 time, 1 height, 2 width; text has the same position on each. Which axis a
pair turns by is a rule of the architecture, how many pairs each axis has is in config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ernie_backend.config.fields import ConfigFields, is_int

DEFAULT_ROPE_THETA = 500000.0
_TIME, _HEIGHT, _WIDTH = range(3)
_ALTERNATING_TIME_PAIRS = 20
_CONTIGUOUS_SECTIONS = (16, 24, 24)

_COMPUTED_ROPE: Mapping[str, object] = {
    "rope_type": "default",
    "type": "default",
    "factor": 1,
    "partial_rotary_factor": 1,
}
"""Fields of ``rope_parameters``, once called ``rope_scaling`` -> the one value that is computed here."""


def read_rope_theta(fields: ConfigFields) -> float:
    """Return the base of the frequencies; StartError if it is none, or a field asks for other maths."""
    theta = fields.positive("rope_theta", DEFAULT_ROPE_THETA)
    for name, inner in _rope_objects(fields).items():
        ConfigFields(fields.path, inner).refuse_others(_COMPUTED_ROPE, f"{name}.")
        theta = fields.positive("rope_theta", theta, inner)
    return theta


def alternating_axes(fields: ConfigFields, pairs: int) -> tuple[int, ...]:
    """Return the axis of each pair of ERNIE-4.5-VL: height and width in turns, at the end time.

    ``freq_allocation`` pairs turn by time; ``mrope_section`` has those of height, width and time.

    Raises:
        StartError: these do not fit the pairs, or each other.
    """
    sections = _sections(fields, pairs)
    time = fields.integer("freq_allocation", 0, default=sections[2] if sections else _ALTERNATING_TIME_PAIRS)
    if time > pairs or (sections and sections[2] != time):
        raise fields.error(
            f"freq_allocation {time} does not fit the {pairs} pairs of head_dim"
            + (f", or mrope_section {list(sections)}, whose last number it is" if sections else "")
        )
    return tuple((_HEIGHT, _WIDTH)[pair % 2] if pair < pairs - time else _TIME for pair in range(pairs))


def contiguous_axes(fields: ConfigFields, pairs: int) -> tuple[int, ...]:
    """Return the axis of each pair of PaddleOCR-VL: time, then height, then width.

    Raises:
        StartError: ``mrope_section`` does not fit the pairs.
    """
    sections = _sections(fields, pairs) or _CONTIGUOUS_SECTIONS
    if sum(sections) != pairs:
        raise fields.error(f"mrope_section is missing; {list(sections)} does not add up to {pairs} pairs")
    return (_TIME,) * sections[0] + (_HEIGHT,) * sections[1] + (_WIDTH,) * sections[2]


def _sections(fields: ConfigFields, pairs: int) -> tuple[int, ...]:
    """Return ``mrope_section``; empty if it is absent."""
    found = [inner["mrope_section"] for inner in _rope_objects(fields).values() if "mrope_section" in inner]
    if not found:
        return ()
    sections = found[-1]
    is_list = isinstance(sections, list) and all(is_int(size) and size >= 0 for size in sections)
    if not is_list or len(sections) != 3 or sum(sections) != pairs:
        raise fields.error(
            f"mrope_section must be three numbers that add up to half of head_dim, {pairs}; found {sections!r}"
        )
    return tuple(sections)


def _rope_objects(fields: ConfigFields) -> dict[str, Mapping[str, Any]]:
    objects: dict[str, Mapping[str, Any]] = {}
    for name in ("rope_scaling", "rope_parameters"):
        inner = fields.values.get(name)
        if inner is not None and not isinstance(inner, dict):
            raise fields.error(f"{name} must be an object, found {inner!r}")
        if inner:
            objects[name] = inner
    return objects
