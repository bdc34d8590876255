"""What the record of a request says of its end."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from ernie_frontend.metrics import Metrics
from ernie_frontend.middleware.request_log import RequestLog

PATH = "/v1/completions"


async def test_an_answer_cut_off_by_the_end_of_the_process_is_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def cut_off(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise asyncio.CancelledError

    async def nothing(*_: object) -> None:
        return

    metrics = Metrics()
    log = RequestLog(cut_off, metrics, frozenset([PATH]))
    scope = {"type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "headers": []}
    with caplog.at_level("INFO"), pytest.raises(asyncio.CancelledError):
        await log(scope, nothing, nothing)  # type: ignore[arg-type]
    text = metrics.to_text(None).decode()
    assert f'http_requests_total{{method="POST",path="{PATH}",status_code="503"}} 1.0' in text
    assert "fastdeploy:request_success_total 0.0" in text
    assert "status=200 failed=503" in caplog.text


@pytest.mark.parametrize(
    ("path", "status", "is_logged"),
    [("/health", 200, False), ("/metrics", 200, False), ("/health", 503, True), (PATH, 200, True)],
)
async def test_probes_that_find_all_well_are_not_logged(
    caplog: pytest.LogCaptureFixture, path: str, status: int, is_logged: bool
) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def nothing(*_: object) -> None:
        return

    log = RequestLog(answer, Metrics(), frozenset([PATH]))
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "headers": []}
    with caplog.at_level("INFO"):
        await log(scope, nothing, nothing)  # type: ignore[arg-type]
    assert bool(caplog.records) is is_logged
