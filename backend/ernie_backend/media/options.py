"""How a medium is prepared: the operator's settings, which a request may change within their limits.

A maximum above the server's is lowered to it, since memory was planned for that. Of a minimum and a maximum,
the one that is not given follows the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ernie_backend.media.families import PixelLimits
from ernie_wire.errors import InvalidValue

LOW_DETAIL_PIXELS = 512 * 512
"""Of an image with ``detail`` low, as OpenAI resizes it."""


def pixel_limits(defaults: PixelLimits, largest: int, options: Mapping[str, Any]) -> PixelLimits:
    """Return the limits of an image or a frame.

    Args:
        defaults: if the options say nothing.
        largest: to which a request may raise the maximum.
        options: ``min_pixels``, ``max_pixels``, ``detail``.

    Raises:
        InvalidValue: the minimum is above the maximum, or above what the server allows.
    """
    given = options.get("min_pixels")
    most = options.get("max_pixels", defaults.max_pixels)
    if "max_pixels" not in options:
        most = max(most, given or 0)
    if options.get("detail") == "low":
        most = min(most, LOW_DETAIL_PIXELS)
    least, most = given or min(defaults.min_pixels, most), min(most, largest)
    if least > most:
        raise InvalidValue(
            f"min_pixels {least} is above max_pixels {most}; the server's limit is {largest}",
            "media",
        )
    return PixelLimits(min(least, most), most)
