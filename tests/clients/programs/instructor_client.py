"""Instructor: the same model of an answer as a tool and by a JSON schema."""

from __future__ import annotations

from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel


class Capital(BaseModel, extra="forbid"):
    """A country's capital."""

    country: Literal["China", "France"]
    city: Literal["Beijing", "Paris"]


server = OpenAI(base_url="http://127.0.0.1:8188/v1", api_key="null", max_retries=0)
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(server, mode=mode)
    answer = client.chat.completions.create(
        model="ernie-tiny",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        response_model=Capital,
        temperature=0,
        max_tokens=400,
        max_retries=0,
    )
    print(f"{mode.name}:", answer.country, answer.city)
