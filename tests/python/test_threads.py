"""Several threads on one session, and stopping a wait from elsewhere."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import builders
import portmaster_kext as pk
import pytest
from builders import frame, header, record, syn
from hosts import both, passed, shown


@both
def test_several_readers_share_the_requests(opened):
    kext = opened(*(syn(port) for port in range(1, 501)))

    def read(_: int) -> list[int]:
        return [r.remote_port for r in kext if r.accept() is None]

    with ThreadPoolExecutor(4) as pool:
        ports = sorted(port for ports in pool.map(read, range(4)) for port in ports)
    assert ports == list(range(1, 501)), "each once, none lost"
    assert passed(kext.counters()) == 500


@both
def test_verdicts_from_other_threads(opened):
    kext = opened(*(syn(port) for port in range(1, 401)))
    requests = list(kext)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda r: r.drop(permanent=r.remote_port % 2 == 0), requests))
    counters = kext.counters()
    assert (counters.dropped, counters.held) == (400, 0)
    assert counters.balanced


@both
def test_one_verdict_of_many_wins(opened):
    kext = opened(syn(80))
    verdict_request = next(kext)
    barrier = threading.Barrier(8)

    def decide(_: int) -> bool:
        barrier.wait()
        try:
            verdict_request.accept()
        except pk.AlreadyDecidedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(decide, range(8))) == 1


@pytest.fixture
def slow(tmp_path):
    """A capture whose second packet comes an hour after its first."""
    return f"replay:{builders.slow(tmp_path)}"


@both
def test_closing_from_another_thread_ends_the_loop(host, slow):
    kext = host.open(slow, realtime=True, local=[builders.CLIENT])
    got = []
    reader = threading.Thread(target=lambda: got.extend(r.remote_port for r in kext))
    reader.start()
    time.sleep(0.3)
    begun = time.monotonic()
    kext.close()
    reader.join(5)
    assert not reader.is_alive()
    assert time.monotonic() - begun < 0.2
    assert got == [80]
    assert kext.counters().balanced


def test_the_last_counters_are_those_of_the_end(tmp_path):
    path = tmp_path / "long.pcap"
    # One flow: after its verdict the reader presents packet after packet and asks no more.
    path.write_bytes(header() + record(frame(syn(80))) * 100_000)

    def read(kext: pk.Kext) -> None:
        # Closed before the first verdict, if the reader is slow to start.
        with contextlib.suppress(pk.ClosedError):
            for request in kext:
                request.accept()

    for delay_ms in range(10):
        kext = pk.open(f"replay:{path}", local=[builders.CLIENT])
        reader = threading.Thread(target=read, args=(kext,))
        reader.start()
        time.sleep(delay_ms / 1_000)
        kext.close()
        reader.join(5)
        assert not reader.is_alive()
        counters = kext.counters()
        assert counters.balanced
        assert counters.seen == kext.replay_report().presented


class AlarmError(Exception):
    """What the signal handler below raises."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer that signals")
def test_no_request_is_lost_by_a_signal_in_a_loop(opened):
    def handler(_signal, _frame):
        raise AlarmError

    before = signal.signal(signal.SIGALRM, handler)
    alarms = 0
    try:
        for _ in range(20):
            kext = opened(*(syn(port) for port in range(1, 1_001)))
            got, last = set(), None
            while True:
                try:
                    # Once, within the run, so that no handler is interrupted by another.
                    signal.setitimer(signal.ITIMER_REAL, 0.000_2)
                    for last in kext:
                        got.add(last.id)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    break
                except AlarmError:
                    alarms += 1
                    if last is not None:
                        got.add(last.id)
            assert len(got) == 1_000
            kext.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert alarms > 0


INTERRUPTED = """
import sys, time
import portmaster_kext as pk
with pk.open(sys.argv[1], realtime=True, local=["192.0.2.10"]) as kext:
    for request in kext:
        request.accept()
        print("waiting", flush=True)
"""


@both
@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in another way there")
def test_ctrl_c_ends_a_blocking_loop_at_once(host, slow):
    device = host.device(slow, realtime=True, local=[builders.CLIENT])
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, device],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.3)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        # The traceback begins when the exception has been raised; what follows is the
        # interpreter's own end.
        assert process.stderr.readline().startswith("Traceback")
        assert time.monotonic() - begun < 0.25
        assert "KeyboardInterrupt" in process.stderr.read()
        assert process.wait(10) == -signal.SIGINT


@both
def test_a_wait_lets_other_threads_run(host, slow):
    with host.open(slow, realtime=True, local=[builders.CLIENT]) as kext:
        next(kext).accept()
        reader = threading.Thread(target=lambda: next(kext, None))
        reader.start()
        begun = time.monotonic()
        total = sum(range(200_000))
        assert total
        assert time.monotonic() - begun < 1
        assert shown(kext.counters()) == 1, "other calls go on while one waits"
    reader.join(5)
    assert not reader.is_alive()
