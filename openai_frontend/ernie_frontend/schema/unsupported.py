"""Fields outside the schema: those that are refused, and those that are ignored without a warning.

A field is refused if it is not supported and cannot be ignored without changing the answer; it has a reason,
and neutral values that are accepted. Fields that do not concern the answer are ignored (``IGNORED``), and any
other with a warning that names it (``translate.response_warnings``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from ernie_wire.errors import InvalidValue

_NOT_YET = "not supported yet"
_TEMPLATE = "a template is a program, and only the model's own is trusted"


# What SGLang and llama.cpp call the fields that say what an answer must be.
_CONSTRAINTS = {
    "regex": "guided_regex",
    "ebnf": "guided_grammar",
    "grammar": "guided_grammar",
    "json_schema": "response_format",
}


@dataclass(frozen=True)
class Refusal:
    """Why a field is refused.

    Attributes:
        reason: the end of the sentence "NAME is refused: ...".
        neutral: values without an effect, which are accepted; null always is.
    """

    reason: str
    neutral: tuple[object, ...] = ()


_COMMON: dict[str, Refusal] = {
    "use_beam_search": Refusal(_NOT_YET, (False,)),
    "length_penalty": Refusal("only beam search uses it", (1.0,)),
    "include_draft_logprobs": Refusal("there is no draft model", (False,)),
    "temp_scaled_logprobs": Refusal("the server's logprobs mode decides", (False,)),
    "top_p_normalized_logprobs": Refusal("the server's logprobs mode decides", (False,)),
    "mm_hashes": Refusal("media are recognized by their content", ([],)),
    **{name: Refusal(f"another server's field; use {ours}") for name, ours in _CONSTRAINTS.items()},
}

UNSUPPORTED_IN_CHAT: dict[str, Refusal] = {
    **_COMMON,
    "best_of": Refusal("only completions support it", (1,)),
    "echo": Refusal("only completions support it", (False,)),
    "functions": Refusal("use tools", ([],)),
    "function_call": Refusal("use tool_choice", ("none", "auto")),
    "modalities": Refusal("answers are text", (["text"],)),
    "audio": Refusal("answers are text"),
    "chat_template": Refusal(_TEMPLATE),
}

UNSUPPORTED_IN_COMPLETIONS: dict[str, Refusal] = {
    **_COMMON,
    "suffix": Refusal("the models do not support infilling", ("", {})),
}

IGNORED: dict[str, str] = {
    **dict.fromkeys(("store", "moderation"), "nothing is stored, and answers are not moderated"),
    **dict.fromkeys(("safety_identifier", "session_id"), "users are not tracked"),
    **dict.fromkeys(
        ("prompt_cache_key", "prompt_cache_retention"), "the prefix cache finds equal prompts by itself"
    ),
    "service_tier": "there is one tier; see priority",
    "prediction": "it changes only the speed",
    "request_id": "the header X-Request-Id sets it",
    **dict.fromkeys(("trace_context", "collect_metrics"), "FastDeploy's own tracing"),
    "guided_decoding_backend": "there is one",
    **dict.fromkeys(("kv_transfer_params", "disaggregate_info"), "prompts are computed where answers are"),
    "add_special_tokens": "the tokenizer adds none",
}
"""Fields that clients send and that do not concern the answer, with the reason; they cause no warning."""

IGNORED_INSIDE = frozenset(
    (
        *("refusal", "annotations", "audio"),
        *(
            "multimodal_content",
            "prompt_token_ids",
            "completion_token_ids",
            "prompt_tokens",
            "completion_tokens",
        ),
    )
)
"""Fields of answers, OpenAI's and ours, which clients send back in messages and which cause no warning."""


def refuse_unsupported(body: BaseModel, unsupported: Mapping[str, Refusal]) -> None:
    """Raise InvalidValue for the first unsupported field with a value that is not neutral.

    Args:
        body: a request, with the fields that its schema does not have in ``model_extra``.
        unsupported: the unsupported fields: unknown ones, or inherited by the schema.
    """
    for name, value in body:
        if value is None or name not in unsupported:
            continue
        refusal = unsupported[name]
        if _without_nulls(value) in refusal.neutral:
            continue
        neutral = " or ".join(json.dumps(entry) for entry in refusal.neutral)
        way_out = f"leave it out or send {neutral}" if neutral else "leave it out"
        raise InvalidValue(f"{name} is refused: {refusal.reason}; {way_out}", name)


def _without_nulls(value: object) -> object:
    """Return an object without its null members: some clients send all fields that they know."""
    if not isinstance(value, dict):
        return value
    return {name: each for name, each in value.items() if each is not None}
