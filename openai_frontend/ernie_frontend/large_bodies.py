"""Work on a request's body: beside the event loop if the body is large, so that the others do not wait for it.

Must not know what the work is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

LARGE_BYTES = 32 << 10  # what takes longer than the way to a thread and back


async def beside_loop_if_large(
    num_bytes: int,
    work: Callable[Parameters, Result],
    *arguments: Parameters.args,
    **named: Parameters.kwargs,
) -> Result:
    """Return what ``work`` returns; a body of ``num_bytes`` decides where it runs."""
    if num_bytes <= LARGE_BYTES:
        return work(*arguments, **named)
    return await asyncio.to_thread(work, *arguments, **named)
