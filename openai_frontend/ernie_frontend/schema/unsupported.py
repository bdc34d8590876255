"""Fields that are known but not served, and whose silent neglect would change the answer.

Each has the values that ask for nothing, and a reason; with any other value the request is refused. Fields that
are neither here nor in the schema are ignored, as OpenAI's own servers and FastDeploy do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from ernie_wire.errors import InvalidValue

_NOT_YET = "not supported yet"
_NO_GRAMMAR = "answers are not held to a grammar yet"
_NO_THINKING = "no served model thinks yet"
_TEMPLATE = "a template is a program: only the model's own is run"


@dataclass(frozen=True)
class Refusal:
    """Why a field is refused.

    Attributes:
        reason: the end of the sentence "NAME is refused: ...".
        neutral: values that ask for nothing and are accepted; null always is.
    """

    reason: str
    neutral: tuple[object, ...] = ()


_COMMON: dict[str, Refusal] = {
    "use_beam_search": Refusal(_NOT_YET, (False,)),
    "length_penalty": Refusal("only beam search has one", (1.0,)),
    "logits_processors_args": Refusal("there are no logits processors; logit_bias is a field", ({},)),
    "allowed_token_ids": Refusal(_NOT_YET),
    "truncate_prompt_tokens": Refusal("a prompt is never shortened"),
    "response_max_tokens": Refusal(f"{_NO_THINKING}; use max_tokens"),
    "response_format": Refusal(_NO_GRAMMAR, ({"type": "text"},)),
    "guided_json": Refusal(_NO_GRAMMAR),
    "guided_regex": Refusal(_NO_GRAMMAR),
    "guided_choice": Refusal(_NO_GRAMMAR),
    "guided_grammar": Refusal(_NO_GRAMMAR),
    "structural_tag": Refusal(_NO_GRAMMAR),
    "structured_outputs": Refusal(_NO_GRAMMAR),
    "include_draft_logprobs": Refusal("there is no draft model", (False,)),
    "temp_scaled_logprobs": Refusal("the server's logprobs mode decides", (False,)),
    "top_p_normalized_logprobs": Refusal("the server's logprobs mode decides", (False,)),
    "mm_hashes": Refusal("there are no media yet", ([],)),
}

UNSUPPORTED_IN_CHAT: dict[str, Refusal] = {
    **_COMMON,
    "best_of": Refusal("only completions have it", (1,)),
    "echo": Refusal("only completions have it", (False,)),
    "functions": Refusal("use tools", ([],)),
    "function_call": Refusal("use tool_choice", ("none", "auto")),
    "modalities": Refusal("answers are text", (["text"],)),
    "audio": Refusal("answers are text"),
    "chat_template": Refusal(_TEMPLATE),
    "add_generation_prompt": Refusal(_NOT_YET, (True,)),
    "continue_final_message": Refusal(_NOT_YET, (False,)),
}

UNSUPPORTED_IN_COMPLETIONS: dict[str, Refusal] = {
    **_COMMON,
    "suffix": Refusal("the models do not fill in between two texts", ("", {})),
}


def refuse_unsupported(body: BaseModel, unsupported: Mapping[str, Refusal]) -> None:
    """Raise InvalidValue for the first field whose value asks for something that is not served.

    Args:
        body: a request, with what its schema does not know in ``model_extra``.
        unsupported: the refused names: unknown ones, or those that the schema inherits.
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
    """Return an object without its members that are null: some clients send all that they know."""
    if not isinstance(value, dict):
        return value
    return {name: each for name, each in value.items() if each is not None}
