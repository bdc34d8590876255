"""Which ranks are on which machine, and the errors of a wrong list of machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ernie_backend.errors import StartError
from ernie_backend.parallel.layout import Layout, check_leads, is_own_address, read_layout
from ernie_backend.settings.engine_settings import ParallelSettings

PORT = 8002
MACHINES = "10.0.0.1,10.0.0.2"


def layout(size: int, ips: str, own: str = "10.0.0.1", **environment: str) -> Layout:
    settings = ParallelSettings(tensor_parallel_size=size, ips=ips, engine_worker_queue_port=PORT)
    return read_layout(settings, environment, lambda address: address == own)


@pytest.mark.parametrize("ips", ["", "127.0.0.1", "localhost", "10.9.9.9"])
def test_one_machine_or_none_is_this_one(ips: str) -> None:
    found = layout(4, ips, own="127.0.0.1")
    assert replace(found, notice=None) == Layout(4, ("127.0.0.1",), 0, PORT)
    assert found.ranks_per_host == 4
    check_leads(found)


def test_a_single_address_that_is_not_this_machines_gets_a_notice() -> None:
    assert layout(4, "10.9.9.9").notice == "ips is 10.9.9.9, not an address of this machine; all ranks run here"
    assert [layout(4, ips).notice for ips in ("", "localhost", "10.0.0.1")] == [None] * 3


def test_machines_have_the_same_number_of_consecutive_ranks() -> None:
    found = layout(8, MACHINES, own="10.0.0.2")
    assert (found.own_host, found.ranks_per_host, found.has_rank_0) == (1, 4, False)
    assert [found.rank(1, index) for index in range(4)] == [4, 5, 6, 7]
    with pytest.raises(StartError, match=r"10\.0\.0\.2.*10\.0\.0\.1"):
        check_leads(found)


def test_the_list_may_come_from_the_environment() -> None:
    found = layout(2, "", own="10.0.0.2", PADDLE_TRAINERS=MACHINES)
    assert (found.hosts, found.own_host) == (("10.0.0.1", "10.0.0.2"), 1)
    assert layout(2, MACHINES, PADDLE_TRAINERS="10.0.0.8,10.0.0.9").hosts == ("10.0.0.1", "10.0.0.2")


def test_a_machine_may_be_told_which_one_it_is() -> None:
    own = ("127.0.0.1", "127.0.0.2")
    settings = ParallelSettings(tensor_parallel_size=2, ips=",".join(own))
    assert read_layout(settings, {"PADDLE_TRAINER_ID": "1"}, own.__contains__).own_host == 1
    with pytest.raises(StartError, match="PADDLE_TRAINER_ID"):
        read_layout(settings, {}, own.__contains__)


@pytest.mark.parametrize(
    ("size", "ips", "environment", "complaint"),
    [
        (3, MACHINES, {}, "tensor_parallel_size is 3"),
        (2, "10.0.0.1,node2", {}, "node2"),
        (2, "10.0.0.1,10.0.0.1", {}, r"10\.0\.0\.1 twice"),
        (2, "localhost,10.0.0.1", {}, "localhost"),
        (2, MACHINES, {"PADDLE_TRAINER_ID": "1"}, r"has 10\.0\.0\.2"),
        (2, "10.0.0.3,10.0.0.4", {}, "none"),
        (2, MACHINES, {"PADDLE_TRAINER_ID": "2"}, "PADDLE_TRAINER_ID is '2'"),
        (2, "", {"PADDLE_TRAINERS": "a,b"}, "PADDLE_TRAINERS"),
    ],
)
def test_the_error_of_a_wrong_list_names_the_way_out(
    size: int, ips: str, environment: dict[str, str], complaint: str
) -> None:
    with pytest.raises(StartError, match=complaint):
        layout(size, ips, **environment)


def test_an_address_is_known_as_this_machines() -> None:
    assert is_own_address("127.0.0.1")
    assert not is_own_address("203.0.113.77")
