"""Pydantic AI: text, a tool of the user, and an answer with a type as a tool and as a JSON schema."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Capital(BaseModel):
    """A country's capital."""

    country: Literal["China", "France"]
    city: Literal["Beijing", "Paris"]


provider = OpenAIProvider(base_url="http://127.0.0.1:8188/v1", api_key="null")
model = OpenAIChatModel("ernie-tiny", provider=provider, settings={"temperature": 0, "max_tokens": 400})
question = "What is the capital of France?"
print("text:", Agent(model).run_sync(question).output)
for kind in (ToolOutput, NativeOutput):
    answer = Agent(model, output_type=kind(Capital)).run_sync(question).output
    print(f"{kind.__name__}:", answer.country, answer.city)
