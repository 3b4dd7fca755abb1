"""Flows that are cached and flows that have ended: one by one and as arrays."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import portmaster_kext as pk
import pytest
from builders import request, syn, syn_ack
from hosts import both

NUMBERS = [
    "local_port",
    "remote_port",
    "version",
    "protocol",
    "verdict",
    "process_id",
    "packets_out",
    "packets_in",
    "bytes_out",
    "bytes_in",
    "first_seen",
    "last_seen",
    "payload_out",
    "payload_in",
]


def row(flow) -> tuple:
    return tuple(int(getattr(flow, name) or 0) for name in NUMBERS)


def rows(batch) -> list[tuple]:
    return list(zip(*(getattr(batch, name).tolist() for name in NUMBERS), strict=True))


@pytest.fixture
def kext(opened) -> pk.Kext:
    packets = [syn(80), syn_ack(80), request(80, b"GET /"), syn(81), syn(82)]
    kext = opened(*packets)
    for verdict_request in kext:
        verdict_request.drop() if verdict_request.remote_port == 82 else verdict_request.accept()
    return kext


@both
def test_flows_one_by_one_and_as_arrays_are_the_same(kext):
    flows = kext.flows()
    listed = list(flows)
    assert list(flows) == [], "once"
    batch = flows.columns()
    assert len(batch) == len(listed) == 3
    assert sorted(rows(batch)) == sorted(map(row, listed))
    assert set(batch.origin.tolist()) == {pk.FlowOrigin.VERDICT}
    assert batch.local_address.shape == (3, 16)
    assert (batch.local_address[:, 10:12] == 0xFF).all()
    assert batch.packets_in.dtype == np.uint64
    assert not batch.verdict.flags.writeable
    # A replay sees packets only.
    assert not batch.payload_out.any()
    assert not batch.payload_in.any()
    table = pytest.importorskip("pyarrow").record_batch(batch)
    assert table.schema.names[-2:] == ["payload_out", "payload_in"]
    assert table["remote_port"].to_pylist() == batch.remote_port.tolist()
    assert repr(batch) == "<FlowBatch of 3 flows>"


@both
def test_more_flows_than_a_page(host):
    with host.open("synthetic:3000") as kext:
        for batch in kext.batches():
            batch.set_verdicts(pk.Verdict.ACCEPT)
        assert len(list(kext.flows())) == len(kext.flows().columns()) == 3_000


@both
def test_ended_flows_are_told_from_when_they_are_asked_for(opened):
    kext = opened(*(syn(port) for port in range(1, 6)), *(syn(port) for port in range(1, 6)))
    with kext.connection_events() as events:
        assert list(events) == []
        batch = next(kext.batches(max_requests=5))
        batch.set_verdicts(pk.Verdict.ACCEPT)
        kext.clear_cache()
        # Each flow is met again, and so are the ones that were cleared.
        for verdict_request in kext:
            verdict_request.accept()
        told = list(events)
        assert sorted(event.flow.remote_port for event in told) == [1, 2, 3, 4, 5]
        assert {event.end for event in told} == {pk.FlowEnd.CLEARED}
        assert told[0].flow.verdict is pk.Verdict.ACCEPT
        assert str(told[0].end) == "cleared"
        assert events.lost == 0
        assert list(events) == []
    kext.close()
    with pytest.raises(pk.ClosedError):
        kext.connection_events()


def test_ended_flows_as_arrays_and_what_was_lost():
    # A cache of 1,024 flows: the others make room.
    with pk.open("synthetic:4000", capacities=pk.Capacities(flows=1_024)) as kext:
        events = kext.connection_events()
        for batch in kext.batches():
            batch.set_verdicts(pk.Verdict.ACCEPT)
        ended = 4_000 - len(kext.flows().columns())
        first = events.columns(100)
        assert (len(first), first.waiting, first.lost) == (100, 924, ended - 1_024)
        assert set(first.end.tolist()) == {pk.FlowEnd.EVICTED}
        rest = events.columns()
        assert (len(rest), rest.waiting) == (924, 0)
        assert events.lost == ended - 1_024
        table = pytest.importorskip("pyarrow").record_batch(rest)
        assert table["end"].to_pylist() == rest.end.tolist()
        assert repr(first) == f"<FlowEventBatch of 100 flows, {ended - 1_024} lost>"
        with pytest.raises(ValueError, match="1 to 4096"):
            events.columns(0)
        events.close()
        assert list(events) == []


ENDED = 576
"""Flows that leave a cache of 1,024 flows when 1,600 are decided."""


def decided() -> pk.Kext:
    return pk.open("synthetic:1600", capacities=pk.Capacities(flows=1_024))


def decide(kext: pk.Kext) -> None:
    for batch in kext.batches():
        batch.set_verdicts(pk.Verdict.ACCEPT)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def shared(items: Iterator[Any]) -> list[Any]:
    """What four threads get of it."""
    given: list[Any] = []
    threads = [threading.Thread(target=given.extend, args=(items,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return given


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_ask_for_ended_flows_share_them():
    for _ in range(20):
        with decided() as kext, kext.connection_events() as events:
            decide(kext)
            given = shared(events)
            assert len({event.flow.remote_address for event in given}) > 1
            assert len(given) == ENDED
            assert events.lost == 0


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_ask_for_cached_flows_share_them():
    with pk.open("synthetic:4000") as kext:
        decide(kext)
        for _ in range(20):
            keys = [(flow.remote_address, flow.local_port) for flow in shared(kext.flows())]
            assert len(keys) == len(set(keys)) == 4_000


def test_arrays_of_ended_flows_go_on_where_iterating_stopped():
    with decided() as kext, kext.connection_events() as events:
        decide(kext)
        first = next(events)
        batch = events.columns()
        assert len(batch) == ENDED - 1
        assert first.flow.local_port not in batch.local_port.tolist()
        assert len(events.columns()) == 0
        assert next(events, None) is None


def test_a_part_of_what_was_fetched_may_be_asked_for():
    with decided() as kext, kext.connection_events() as events:
        decide(kext)
        next(events)
        some = events.columns(10)
        assert (len(some), some.waiting) == (10, ENDED - 11)
        assert len(list(events)) == ENDED - 11
