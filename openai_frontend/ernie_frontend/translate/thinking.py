"""The switch ``enable_thinking``: where clients put it, and which place wins.

The first of these that is given decides:

    1. chat_template_kwargs.enable_thinking
    2. enable_thinking at the top level, an alias of the first
    3. metadata.enable_thinking, FastDeploy's legacy carrier
    4. chat_template_kwargs.options.thinking_mode: "close" and "false" switch off, any other text on

Must not know what a template does with it.
"""

from __future__ import annotations

from ernie_frontend.schema.chat import ChatRequest
from ernie_wire.errors import InvalidValue

_WORDS = {"true": True, "false": False}


def resolve_thinking(body: ChatRequest) -> bool | None:
    """Return whether thinking is asked for, or None if the request does not say.

    Raises:
        InvalidValue: a switch that is neither a boolean nor "true" or "false".
    """
    kwargs = body.chat_template_kwargs or {}
    for value in (
        kwargs.get("enable_thinking"),
        body.enable_thinking,
        (body.metadata or {}).get("enable_thinking"),
    ):
        if value is not None:
            return _as_switch(value)
    options = kwargs.get("options")
    mode = options.get("thinking_mode") if isinstance(options, dict) else None
    return None if not mode else mode not in ("close", "false", False)


def _as_switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _WORDS:  # OpenAI's metadata holds strings only
        return _WORDS[value.lower()]
    raise InvalidValue("enable_thinking must be true or false", "enable_thinking")
