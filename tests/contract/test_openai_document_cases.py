"""Requests that schemathesis makes of our OpenAPI document, over a fake Triton: answers are as it says."""

from __future__ import annotations

from fakes.triton_grpc import FakeTriton
from support.document_cases import check_operations

pytest_plugins = ("support.frontend_server",)


def test_every_operation(frontend: str, triton: FakeTriton) -> None:
    statuses = check_operations(frontend, 40, timeout_s=200)
    answered = {operation for operation, status in statuses if status == 200}
    assert {"POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models"} <= answered
