"""LiteLLM: an answer, a forced tool, a schema, and its error for a prompt that is too long."""

from __future__ import annotations

import json
from typing import Literal

import litellm
from pydantic import BaseModel

litellm.suppress_debug_info = True
SERVER = {
    "model": "openai/ernie-tiny",
    "api_base": "http://127.0.0.1:8188/v1",
    "api_key": "null",
    "temperature": 0,
    "max_tokens": 400,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Beijing", "Paris"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Capital(BaseModel):
    """A country's capital."""

    country: Literal["China", "France"]
    city: Literal["Beijing", "Paris"]


messages = [{"role": "user", "content": "What is the capital of France?"}]
print("text:", litellm.completion(messages=messages, **SERVER).choices[0].message.content)

answer = litellm.completion(
    messages=messages, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, **SERVER
)
(call,) = answer.choices[0].message.tool_calls
print("tool:", call.function.name, json.loads(call.function.arguments)["city"])

answer = litellm.completion(messages=messages, response_format=Capital, **SERVER)
capital = Capital.model_validate_json(answer.choices[0].message.content)
print("response_format:", capital.country, capital.city)

try:
    litellm.completion(messages=[{"role": "user", "content": "word " * 5000}], **SERVER)
except litellm.ContextWindowExceededError:
    print("context: ContextWindowExceededError")
