"""Which connection gives way when there are too many, and how often the log says so."""

from __future__ import annotations

import re
import resource

import pytest

from ernie_frontend.http.connections import Connections, TooFewDescriptors, connection_limit


class Client:
    has_given_way = False

    def evict(self) -> None:
        self.has_given_way = True


def admitted(count: Connections, number: int, *, is_idle: bool = True) -> list[Client]:
    clients = [Client() for _ in range(number)]
    for client in clients:
        assert count.admit(client)
        count.set_idle(client, is_idle=is_idle)
    return clients


def test_the_longest_waiting_gives_way() -> None:
    count = Connections(3)
    first, second, third = admitted(count, 3)
    count.set_idle(first, is_idle=False)
    count.set_idle(first, is_idle=True)  # after its request it waits anew
    admitted(count, 1)
    assert [client.has_given_way for client in (first, second, third)] == [False, True, False]


def test_those_at_work_do_not_and_a_new_one_is_refused() -> None:
    count = Connections(2)
    working = admitted(count, 2, is_idle=False)
    assert not count.admit(Client())
    assert not any(client.has_given_way for client in working)
    count.forget(working[0])
    admitted(count, 1)


def test_one_that_was_refused_takes_nobodys_place() -> None:
    count = Connections(1)
    working = admitted(count, 1, is_idle=False)
    refused = Client()
    assert not count.admit(refused)
    count.set_idle(refused, is_idle=True)
    assert not count.admit(Client())
    count.forget(refused)
    assert not count.admit(Client())
    count.forget(working[0])
    assert count.admit(Client())


def test_one_line_a_minute_with_what_happened_since(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    count = Connections(2, lambda: now)
    admitted(count, 5)
    (message,) = caplog.messages
    assert re.search(": 1 .*closed, 0 .*refused", message)
    now = 59.0
    admitted(count, 1)
    assert len(caplog.records) == 1
    now = 61.0
    admitted(count, 1)
    assert re.search(": 4 .*closed", caplog.messages[1])


INFINITY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "max_concurrency", "raised", "most"),
    [
        ((1024, 1024), 512, None, 896),
        ((1024, 4096), 512, 4096, 3968),
        ((1024, 1 << 20), 512, 8320, 8192),
        ((1024, INFINITY), 512, 8320, 8192),
        ((INFINITY, INFINITY), 512, None, 8192),
        ((1 << 20, 1 << 20), 512, None, 8192),
        ((1024, 1 << 20), 10_000, 20_128, 20_000),
        ((192, 192), 512, None, 64),
    ],
)
def test_the_limit_stays_below_that_of_descriptors(
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    max_concurrency: int,
    raised: int | None,
    most: int,
) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: calls.append(pair))
    assert connection_limit(max_concurrency) == most
    assert calls == ([] if raised is None else [(raised, limits[1])])


def test_too_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (191, 191))
    with pytest.raises(TooFewDescriptors, match=r"191 .*192"):
        connection_limit(512)
