"""Verdicts that are sent together: when, and what is told of them."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import portmaster_kext as pk
import pytest
from builders import datagram, syn
from hosts import both

NEVER = 3_600.0
"""An interval that no test sees the end of."""


def applied(kext: pk.Kext) -> int:
    """How many verdicts have been applied; asking sends none of those that wait."""
    return kext.counters().events["verdict_applied"]


@both
def test_flush_sends_and_tells_nothing_if_all_were_in_time(opened):
    kext = opened(syn(1), syn(2), flush_interval=NEVER)
    for request in kext:
        request.accept()
    kext.flush()
    kext.flush()
    assert applied(kext) == 2


@both
def test_the_end_of_the_requests_sends_what_waits(opened):
    kext = opened(*(syn(port) for port in range(1, 101)), flush_interval=NEVER)
    for request in kext:
        request.block()
    # `list_flows` would send them too; this is on the iterator's own account.
    assert kext.counters().blocked == 100


def test_a_verdict_that_comes_too_late_is_told_by_flush(opened):
    # Twice as many flows as are held.
    kext = opened(
        *(datagram(53, source_port=n + 1) for n in range(64)),
        capacities=pk.Capacities(packets=16, packet_bytes=131_072),
        flush_interval=NEVER,
    )
    requests = list(kext)
    first, last = requests[0], requests[-1]
    first.accept()
    last.accept()
    with pytest.raises(pk.NotHeldError, match="make room") as caught:
        kext.flush()
    assert (caught.value.id, caught.value.reason) == (first.id, "evicted")
    kext.flush()
    counters = kext.counters()
    assert counters.events["verdict_too_late"] == 1
    assert counters.permitted == 1
    with pytest.raises(pk.NotHeldError):
        first.accept()


def test_without_an_interval_each_error_is_raised_where_it_belongs(opened):
    kext = opened(
        *(datagram(53, source_port=n + 1) for n in range(64)),
        capacities=pk.Capacities(packets=16, packet_bytes=131_072),
        flush_interval=0,
    )
    requests = list(kext)
    with pytest.raises(pk.NotHeldError):
        requests[0].accept()
    requests[-1].accept()
    assert kext.counters().permitted == 1
    kext.flush()


@both
def test_a_payload_of_a_decided_packet_is_not_held(opened):
    kext = opened(syn(1), syn(2), flush_interval=NEVER)
    first, second = kext
    first.drop(permanent=False)
    assert kext.get_payload(second.id) == syn(2)
    with pytest.raises(pk.AlreadyDecidedError) as caught:
        kext.get_payload(first.id)
    assert caught.value.first == (pk.Verdict.DROP, False)


@both
def test_closing_sends_what_waits(opened):
    kext = opened(syn(1), flush_interval=NEVER)
    next(kext).drop()
    kext.close()
    assert kext.counters()["dropped_verdict"] == 1


@pytest.mark.parametrize("interval", [-1, float("nan"), "1", None])
def test_an_interval_that_is_none(opened, interval):
    with pytest.raises(pk.ConfigError, match="flush_interval"):
        opened(syn(1), flush_interval=interval)


@pytest.mark.parametrize("threads", [1, 4])
def test_thousands_in_random_order_from_several_threads(threads):
    count = 8_000
    capacities = pk.Capacities(packets=16_384)
    with pk.open(f"synthetic:{count}", capacities=capacities) as kext:
        requests = list(kext)
        random.Random(5).shuffle(requests)
        names = ["accept", "block", "drop"]

        def decide(part: int) -> None:
            for number, request in enumerate(requests[part::threads]):
                getattr(request, names[number % 3])(permanent=number % 2 == 0)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decide, range(threads)))
        kext.flush()
        counters = kext.counters()
        assert applied(kext) == count
        assert (counters.held, counters.balanced) == (0, True)
        for request in requests[:100]:
            with pytest.raises(pk.AlreadyDecidedError):
                request.accept()


@both
def test_one_of_many_threads_wins_and_the_others_are_told(host):
    with host.open("synthetic:200") as kext:
        requests = list(kext)
        won, stood = [], []
        barrier = threading.Barrier(4)

        def decide() -> None:
            barrier.wait()
            for request in requests:
                try:
                    request.accept()
                except pk.AlreadyDecidedError as error:
                    stood.append(error.first)
                else:
                    won.append(request.id)

        threads = [threading.Thread(target=decide) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert stood == [(pk.Verdict.ACCEPT, True)] * 600
        assert sorted(won) == sorted(request.id for request in requests)
        assert applied(kext) == 200
