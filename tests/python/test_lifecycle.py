"""Properties: whatever is done in whatever order, nothing is lost and nothing is left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import portmaster_kext as pk
import pytest
from hosts import Host, Replay, both, on_driver, shown
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LINUX = sys.platform == "linux"

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("next"), st.integers(1, 30)),
        st.tuples(st.just("batch"), st.integers(1, 200)),
        st.tuples(st.just("one"), st.integers(0, 10_000)),
        st.tuples(st.just("many"), st.integers(1, 100)),
        st.tuples(st.just("again"), st.integers(0, 10_000)),
        st.tuples(st.just("payload"), st.integers(0, 10_000)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("cancel"), st.just(0)),
        st.tuples(st.just("counters"), st.just(0)),
        st.tuples(st.just("clear"), st.just(0)),
        st.tuples(st.just("reader"), st.integers(1, 100)),
        st.tuples(st.just("close"), st.just(0)),
    ),
    max_size=40,
)


def threads_and_files() -> tuple[int, int]:
    """How many threads this process has, and how many open files."""
    if not LINUX:
        return threading.active_count(), 0
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


class Session:
    """A session with what it has given, and what was decided, as a model."""

    def __init__(self, host: Host, interval: float) -> None:
        # A network does not stop for a full packet cache, which has 1,024 places.
        count = 1_000 if host.is_driver else 3_000
        device = f"synthetic:{count},payload=8"
        self.kext = host.open(device, flush_interval=interval, payload=4)
        self.open: dict[int, pk.VerdictRequest] = {}
        self.decided: dict[int, pk.Verdict] = {}
        self.lock = threading.Lock()
        self.readers: list[threading.Thread] = []

    def take(self, requests) -> None:
        with self.lock:
            for request in requests:
                assert request.id not in self.open, "given twice"
                assert request.id not in self.decided, "given twice"
                self.open[request.id] = request

    def pick(self, number: int) -> pk.VerdictRequest | None:
        with self.lock:
            ids = list(self.open)
            return self.open.pop(ids[number % len(ids)]) if ids else None

    def read(self, count: int) -> None:
        """What a thread of its own does."""
        with contextlib.suppress(pk.CancelledError, pk.ClosedError):
            for request in self.kext:
                self.take([request])
                count -= 1
                if count <= 0:
                    return

    def step(self, what: str, number: int) -> None:
        kext = self.kext
        if what == "next":
            for _ in range(number):
                request = next(kext, None)
                if request is None:
                    break
                self.take([request])
        elif what == "batch":
            for batch in kext.batches(number, max_wait=0, payload=4):
                self.take(batch)
                break
        elif what == "one" and (request := self.pick(number)):
            verdict = pk.Verdict.DROP if number % 2 else pk.Verdict.ACCEPT
            kext.set_verdict(request.id, verdict, permanent=number % 3 == 0)
            self.decided[request.id] = verdict
        elif what == "many":
            chosen = [r.id for _ in range(number) if (r := self.pick(number)) is not None]
            if chosen:
                assert not kext.set_verdicts(chosen, pk.Verdict.BLOCK).any()
                self.decided.update(dict.fromkeys(chosen, pk.Verdict.BLOCK))
        elif what == "again" and self.decided:
            again = list(self.decided)[number % len(self.decided)]
            with pytest.raises(pk.AlreadyDecidedError) as caught:
                kext.set_verdict(again, pk.Verdict.REDIRECT_DNS)
            assert caught.value.first.verdict is self.decided[again]
        elif what == "payload" and (request := self.pick(number)):
            assert bytes(request.payload or b"") == kext.get_payload(request.id)[:4]
            self.take([request])
        elif what == "flush":
            kext.flush()
        elif what == "cancel":
            kext.cancel()
        elif what == "counters":
            counters = kext.counters()
            # Those in the hands of a reader may be on their way.
            if not self.readers:
                assert counters.balanced
                assert counters.events["verdict_applied"] == len(self.decided)
        elif what == "clear":
            kext.clear_cache()
        elif what == "reader":
            reader = threading.Thread(target=self.read, args=(number,))
            reader.start()
            self.readers.append(reader)
        elif what == "close":
            kext.close()

    def end(self) -> None:
        self.kext.close()
        for reader in self.readers:
            reader.join(10)
            assert not reader.is_alive()
        counters = self.kext.counters()
        assert counters.balanced
        assert counters.held == 0
        assert counters.events["verdict_applied"] == len(self.decided)
        assert counters["dropped_packet_cache_full"] == 0
        # What was given and not decided, or never given, went by policy.
        expected = sum(verdict is pk.Verdict.ACCEPT for verdict in self.decided.values())
        assert counters["permitted_verdict"] == expected
        assert counters["permitted_no_reader"] == shown(counters) - len(self.decided)


def run(steps, interval: float, host: Host) -> None:
    session = Session(host, interval)
    try:
        for what, number in steps:
            try:
                session.step(what, number)
            except (pk.ClosedError, pk.CancelledError):
                assert session.kext.closed or session.readers
                if session.kext.closed:
                    break
    finally:
        try:
            session.end()
        finally:
            host.settle()


def nothing_is_lost_and_nothing_left_behind(host: Host, steps, interval: float) -> None:
    gc.collect()
    before = threads_and_files()
    run(steps, interval, host)
    gc.collect()
    assert threads_and_files() == before


INTERVALS = st.sampled_from([0, 0.001, 3_600.0])


@settings(deadline=None, max_examples=60)
@given(steps=STEPS, interval=INTERVALS)
def test_nothing_is_lost_and_nothing_left_behind(steps, interval):
    nothing_is_lost_and_nothing_left_behind(Replay(), steps, interval)


@on_driver
@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS, interval=INTERVALS)
def test_nothing_is_lost_and_nothing_left_behind_by_the_driver(host, steps, interval):
    nothing_is_lost_and_nothing_left_behind(host, steps, interval)


def test_memory_is_given_back():
    steps = [("next", 30), ("batch", 200), ("one", 5), ("many", 50), ("payload", 1), ("reader", 5)]

    def rounds(count: int) -> None:
        for _ in range(count):
            run(steps * 2, 0.001, Replay())
        gc.collect()

    rounds(5)
    tracemalloc.start()
    try:
        rounds(5)
        before = tracemalloc.take_snapshot()
        rounds(20)
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    grown = [d for d in after.compare_to(before, "lineno") if "portmaster" in str(d.traceback)]
    assert sum(d.size_diff for d in grown) < 4_096, grown[:5]


@pytest.mark.skipif(not LINUX, reason="resident memory is read from /proc")
def test_memory_stays_flat_over_many_requests():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )

    with pk.open("synthetic:400000,payload=32", payload=60) as kext:
        for number, request in enumerate(kext):
            if number == 100_000:
                before = resident()
            request.accept()
    # Three times as many requests as before; a byte of each would be seen.
    assert resident() - before < 4 << 20


def test_a_session_that_is_dropped_is_closed():
    gc.collect()
    before = threads_and_files()
    kext = pk.open("synthetic:100")
    for request in kext:
        request.accept()
    batch = next(pk.open("synthetic:100").batches())
    del kext, request
    gc.collect()
    # The batch has its session, and gives it back when it goes.
    assert batch.set_verdicts(pk.Verdict.ACCEPT).tolist() == [0] * 100
    del batch
    gc.collect()
    assert threads_and_files() == before


BLOCKED = """
import sys, threading
import portmaster_kext as pk
with pk.open(sys.argv[1], realtime=True, local=["192.0.2.10"]) as kext:
    try:
        for batch in kext.batches():
            batch.set_verdicts(2)
            print("waiting", flush=True)
    except KeyboardInterrupt:
        assert kext.counters().balanced
        print("interrupted", flush=True)
"""


@both
@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in another way there")
def test_ctrl_c_ends_a_wait_for_a_batch(host, tmp_path):
    import builders

    device = host.device(f"replay:{builders.slow(tmp_path)}", realtime=True)
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED, device], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "waiting\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - begun < 0.25
        assert process.wait(10) == 0


@both
def test_cancel_ends_a_wait_and_loses_nothing(host, tmp_path):
    import builders

    with host.open(f"replay:{builders.slow(tmp_path)}", realtime=True) as kext:
        next(kext).accept()
        failures = []

        def wait() -> None:
            try:
                next(kext)
            except pk.Error as error:
                failures.append(error)

        reader = threading.Thread(target=wait)
        reader.start()
        while reader.is_alive():
            kext.cancel()
        assert [type(error) for error in failures] == [pk.CancelledError]
        assert len(next(kext.batches(max_wait=0))) == 0, "and goes on"
        assert kext.counters().balanced


@pytest.mark.skipif(not LINUX, reason="memory is read in /proc")
def test_one_kept_request_does_not_keep_its_batch():
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    kept = []
    with pk.open("synthetic:200000,payload=900", payload="all") as kext:
        for number, request in enumerate(kext):
            request.accept(permanent=False)
            if number == 4_000:
                before = resident()
            if number > 4_000 and number % 1_000 == 0:
                kept.append(request)
    # A batch is half a million bytes.
    assert (resident() - before) / len(kept) < 50_000


FORGOTTEN_OUTPUT = """
import os, sys, threading
import portmaster_kext as pk
def drain():
    with open(sys.argv[1], "rb") as pipe:
        while pipe.read(1 << 16):
            pass
thread = threading.Thread(target=drain)
thread.start()
large = pk.Capacities(packet_bytes=1 << 28)
kext = pk.open("synthetic:200,payload=60000", output=sys.argv[1], capacities=large)
next(kext.batches())
del kext
thread.join()
print("ended")
"""


@pytest.mark.skipif(not LINUX, reason="named pipes are made in another way there")
def test_a_session_that_is_dropped_closes_while_others_run(tmp_path):
    # The output is a pipe that takes a little at a time, and Python empties it: it could not while
    # the session is closed, if that held the interpreter.
    pipe = tmp_path / "output"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", FORGOTTEN_OUTPUT, str(pipe)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "ended\n"
