"""Fields that are known but not served yet, and whose silent neglect would change the answer.

Each has the values that ask for nothing; with any other value the request is refused. Fields that are neither
here nor in the schema are ignored, as OpenAI's own servers and FastDeploy do.
"""

from __future__ import annotations

from collections.abc import Mapping

from ernie_wire.errors import InvalidValue

_COMMON: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1.0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "logit_bias": ({},),
    "logits_processors_args": ({},),
    "bad_words": ([],),
    "bad_words_token_ids": ([],),
    "allowed_token_ids": (),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "prompt_logprobs": (),
    "truncate_prompt_tokens": (),
    "response_max_tokens": (),
    "prompt_token_ids": (),
    "completion_token_ids": (),
    "response_format": ({"type": "text"},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structural_tag": (),
    "structured_outputs": (),
}

UNSUPPORTED_IN_CHAT: dict[str, tuple[object, ...]] = {
    **_COMMON,
    "logprobs": (False,),
    "top_logprobs": (0,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "chat_template": (),
    "disable_chat_template": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}

UNSUPPORTED_IN_COMPLETIONS: dict[str, tuple[object, ...]] = {
    **_COMMON,
    "logprobs": (),
    "echo": (False,),
    "suffix": ("", {}),
}


def refuse_unsupported(
    extra: Mapping[str, object] | None, unsupported: Mapping[str, tuple[object, ...]]
) -> None:
    """Raise InvalidValue for the first extra field whose value asks for something that is not served yet.

    Args:
        extra: the fields of a request that its schema does not know.
        unsupported: for each name the values that ask for nothing; None always does.
    """
    for name, value in (extra or {}).items():
        if value is None or name not in unsupported or value in unsupported[name]:
            continue
        neutral = " or ".join(repr(entry) for entry in unsupported[name])
        way_out = f"leave it out or send {neutral}" if neutral else "leave it out"
        raise InvalidValue(f"{name} is not supported yet; {way_out}", name)
