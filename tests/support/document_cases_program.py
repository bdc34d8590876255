"""Requests that schemathesis makes of a server's OpenAPI document, and what each answer must be: run by itself.

    python -m support.document_cases_program URL NUMBER

It prints how often each operation gave each status, and fails at the first answer that breaks the document.

In half of the bodies the prompt is that of the document's example, with a few fields beside it: at random,
hardly any body would be one that the server can answer.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import jsonschema
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi import checks as openapi_checks

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
]
DEADLINE_S = 100.0
"""Of one request: it is answered, if with an error."""
MOST_FIELDS = 3
FEW = 10  # cases of an operation that has no body


def main(url: str, num_cases: str) -> None:
    """Send requests to every operation of the document.

    Args:
        url: the server's.
        num_cases: how many requests each operation with a body gets.
    """
    schema: Any = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses: Counter[tuple[str, int]] = Counter()
    for found in schema.get_all_operations():
        _check(found.ok(), schema.raw_schema, int(num_cases), statuses)
    json.dump([[*key, count] for key, count in statuses.items()], sys.stdout)


def _check(operation: Any, document: Any, num_cases: int, statuses: Counter[tuple[str, int]]) -> None:
    described = document["paths"][operation.path][operation.method]
    has_body = "requestBody" in described
    events = described["responses"].get("200", {}).get("content", {}).get("text/event-stream")
    of_event = events and jsonschema.Draft202012Validator({**document, **events["schema"]})
    cases = _bodies(operation, described) if has_body else operation.as_strategy()

    def send(case: Any) -> None:
        answer = case.call(timeout=DEADLINE_S)
        statuses[operation.label, answer.status_code] += 1
        if answer.headers.get("content-type", [""])[0].startswith("text/event-stream"):
            case.validate_response(answer, checks=CHECKS)
            _check_stream(answer.text, of_event)  # the document describes the data of an event
        else:
            case.validate_response(answer, checks=[*CHECKS, openapi_checks.response_schema_conformance])

    run = settings(
        max_examples=num_cases if has_body else FEW,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run(given(case=cases)(send))()


@st.composite
def _bodies(draw: st.DrawFn, operation: Any, described: Any) -> Any:
    """One request: a body as the document has it or beside that; in half of them with the example's prompt."""
    mode = draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
    case = draw(operation.as_strategy(generation_mode=mode))
    if isinstance(case.body, dict) and case.body and draw(st.booleans()):
        names = draw(st.lists(st.sampled_from(sorted(case.body)), max_size=MOST_FIELDS, unique=True))
        example = described["requestBody"]["content"]["application/json"]["example"]
        case.body = {**example, **{name: case.body[name] for name in names}}
    return case


def _check_stream(text: str, validator: Any) -> None:
    """Check the events of a stream: each as the document says, the last the end."""
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""], text[-1000:]
    for event in events[:-2]:
        validator.validate(json.loads(event.removeprefix("data: ")))


if __name__ == "__main__":
    main(*sys.argv[1:])
