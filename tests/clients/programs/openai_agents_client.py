"""OpenAI Agents SDK: a run with two tools, and a run whose answer has a type."""

from __future__ import annotations

from typing import Literal

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
client = AsyncOpenAI(base_url="http://127.0.0.1:8188/v1", api_key="null", max_retries=0)
model = OpenAIChatCompletionsModel(model="ernie-tiny", openai_client=client)


class Capital(BaseModel):
    """A country's capital."""

    country: Literal["China", "France"]
    city: Literal["Beijing", "Paris"]


@function_tool
def get_weather(city: Literal["Beijing", "Paris"]) -> str:
    """Return the weather of a city."""
    print("tool:", "get_weather", city)
    return f"It is sunny in {city}."


@function_tool
def get_time(city: Literal["Beijing", "Paris"]) -> str:
    """Return the time in a city."""
    print("tool:", "get_time", city)
    return f"It is noon in {city}."


question = "What is the capital of France?"
settings = ModelSettings(temperature=0, max_tokens=400)
print(
    "text:", Runner.run_sync(Agent(name="Guide", model=model, model_settings=settings), question).final_output
)

forced = settings.resolve(ModelSettings(tool_choice="required", parallel_tool_calls=False))
guide = Agent(name="Guide", model=model, tools=[get_weather, get_time], model_settings=forced)
print("answer:", Runner.run_sync(guide, question).final_output)

typed = Agent(name="Guide", model=model, output_type=Capital, model_settings=settings)
answer = Runner.run_sync(typed, question).final_output
print("output_type:", answer.country, answer.city)
