"""LangChain: an answer, a forced tool, streamed tool calls, structured output."""

from __future__ import annotations

from typing import Literal

from langchain_core.exceptions import ContextOverflowError
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

llm = ChatOpenAI(
    base_url="http://127.0.0.1:8188/v1",
    api_key="null",
    model="ernie-tiny",
    temperature=0,
    max_tokens=400,
    max_retries=0,
)


@tool
def get_weather(city: Literal["Beijing", "Paris"]) -> str:
    """Return the weather of a city."""
    return f"It is sunny in {city}."


class Capital(BaseModel):
    """A country's capital."""

    country: Literal["China", "France"]
    city: Literal["Beijing", "Paris"]


print("text:", llm.invoke("What is the capital of France?").content)
print("stream:", "".join(str(chunk.content) for chunk in llm.stream("What is the capital of France?")))

forced = llm.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False, strict=True)
(call,) = forced.invoke("How is the weather in Paris?").tool_calls
print("tool:", call["name"], get_weather.invoke(call["args"]))

whole = None
for chunk in forced.stream("How is the weather in Paris?"):
    whole = chunk if whole is None else whole + chunk
print("streamed tool:", *((call["name"], get_weather.invoke(call["args"])) for call in whole.tool_calls))

for method in ("json_schema", "function_calling"):
    answer = llm.with_structured_output(Capital, method=method, strict=True).invoke(
        "What is the capital of France?"
    )
    print(f"{method}:", answer.country, answer.city)

try:
    llm.invoke("What is the capital of France? " * 500)
except ContextOverflowError as error:
    print("context:", "maximum context length" in str(error))
