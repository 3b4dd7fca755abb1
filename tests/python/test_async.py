"""Sessions in an event loop: asyncio's own, uvloop, and anyio over both."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import builders
import numpy as np
import portmaster_kext as pk
import pytest
from builders import datagram, frame, header, record, syn
from hosts import Host, Replay, both, on_driver, passed, shown
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LINUX = sys.platform == "linux"


def run(kind: str, main, *arguments):
    """Run a coroutine function in a new loop of this kind."""
    if kind == "asyncio":
        return asyncio.run(main(*arguments))
    if kind == "uvloop":
        uvloop = pytest.importorskip("uvloop", reason="uvloop is not for this platform")
        with contextlib.closing(uvloop.new_event_loop()) as loop:
            return loop.run_until_complete(main(*arguments))
    anyio = pytest.importorskip("anyio", reason="pip install anyio")
    if kind == "anyio+uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not for this platform")
    options = {"use_uvloop": kind == "anyio+uvloop"}
    return anyio.run(main, *arguments, backend="asyncio", backend_options=options)


@pytest.fixture(params=["asyncio", "uvloop", "anyio", "anyio+uvloop"])
def loops(request):
    """The kinds of loops that a session is for, one after the other."""
    return request.param


@pytest.fixture
def slow(tmp_path):
    """The device of a capture whose second packet comes an hour after its first."""
    return f"replay:{builders.slow(tmp_path)}"


def readers() -> int:
    """How many threads wait for requests in somebody's place."""
    if not LINUX:
        pytest.skip("threads are counted by their names in /proc")
    count = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            count += (task / "comm").read_text("utf-8").strip() == "kext-reader"
    return count


async def until(condition) -> None:
    """Give the loop turns until it holds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "this never happens"
        await asyncio.sleep(0.001)


@both
def test_requests_are_awaited(host, loops):
    device = host.device("synthetic:2000")

    async def main() -> tuple[list[int], pk.Counters]:
        ids = []
        async with pk.open_async(device, max_requests=300) as kext:
            assert repr(kext) == f"<AsyncKext {device!r}>"
            async for request in kext:
                ids.append(request.id)
                request.accept()
        assert kext.closed
        return ids, kext.counters()

    ids, counters = run(loops, main)
    assert len(set(ids)) == len(ids) == 2_000
    assert (passed(counters), counters.held) == (2_000, 0)
    assert counters.balanced


@both
def test_batches_are_awaited(host, loops):
    async def main() -> tuple[list[int], pk.Counters]:
        sizes = []
        async with host.open_async("synthetic:2000,payload=4") as kext:
            async for batch in kext.batches(300, payload="all"):
                sizes.append(len(batch))
                assert len(batch.payload) == 32 * len(batch)
                drop = batch.remote_port == 80
                outcomes = batch.set_verdicts(np.where(drop, pk.Verdict.DROP, pk.Verdict.ACCEPT))
                assert not outcomes.any()
        return sizes, kext.counters()

    sizes, counters = run(loops, main)
    assert (sum(sizes), max(sizes)) == (2_000, 300)
    assert counters.dropped > 0
    assert passed(counters) + counters.dropped == 2_000


def test_a_session_can_be_awaited_and_closed_by_hand(loops):
    async def main() -> None:
        kext = await pk.open_async("synthetic:3")
        first = await anext(aiter(kext))
        first.drop()
        await kext.aclose()
        await kext.aclose()
        kext.close()
        with pytest.raises(pk.ClosedError):
            aiter(kext)
        with pytest.raises(pk.ClosedError):
            aiter(kext.batches())
        with pytest.raises(StopAsyncIteration):
            await anext(kext)
        with pytest.raises(pk.ClosedError):
            first.accept()
        assert kext.counters().dropped == 1

    run(loops, main)


def test_verdicts_come_from_any_task_in_any_order(loops):
    async def decide(kext: pk.AsyncKext, requests: list[pk.VerdictRequest], number: int) -> None:
        while requests:
            request = requests.pop(random.randrange(len(requests)))
            await asyncio.sleep(0)
            if number % 3 == 0:
                request.block()
            elif number % 3 == 1:
                kext.set_verdict(request.id, pk.Verdict.ACCEPT)
            else:
                assert not kext.set_verdicts([request.id], pk.Verdict.DROP).any()
            with pytest.raises(pk.AlreadyDecidedError):
                request.accept()

    async def main() -> pk.Counters:
        capacities = pk.Capacities(packets=8_192)
        async with pk.open_async("synthetic:3000", capacities=capacities) as kext:
            requests = [request async for request in kext]
            assert kext.counters().held == 3_000, "all of them wait"
            await asyncio.gather(*(decide(kext, requests, number) for number in range(9)))
            kext.flush()
        return kext.counters()

    counters = run(loops, main)
    assert counters.events["verdict_applied"] == 3_000
    assert min(counters.blocked, counters.permitted, counters.dropped) > 0
    assert counters.balanced


@both
def test_tasks_share_the_requests(host, loops):
    async def read(kext: pk.AsyncKext, seen: list[int]) -> None:
        async for request in kext:
            seen.append(request.id)
            request.accept()
            await asyncio.sleep(0)

    async def main() -> list[list[int]]:
        seen: list[list[int]] = [[] for _ in range(20)]
        async with host.open_async("synthetic:1000", max_requests=7) as kext:
            await asyncio.gather(*(read(kext, one) for one in seen))
        return seen

    seen = run(loops, main)
    everything = [number for one in seen for number in one]
    assert len(set(everything)) == len(everything) == 1_000
    assert sum(bool(one) for one in seen) > 1


@both
def test_one_thread_waits_from_the_first_wait_to_the_end(host, loops):
    async def main() -> None:
        before = readers()
        async with host.open_async("synthetic:1000", max_requests=10) as kext:
            assert readers() == before, "none before the first wait"
            await anext(kext)
            assert readers() == before + 1
            tasks = [asyncio.ensure_future(anext(kext)) for _ in range(100)]
            await asyncio.gather(*tasks)
            assert readers() == before + 1, "one for a hundred tasks"
        assert readers() == before

    run(loops, main)


def test_nothing_is_fetched_that_nobody_wants(loops):
    async def main() -> None:
        async with pk.open_async("synthetic:1000", max_requests=10) as kext:
            for _ in range(10):
                await anext(kext)
            await asyncio.sleep(0.02)
            assert kext.counters().requests == 10
            await anext(kext)
            assert kext.counters().requests == 20

    run(loops, main)


def test_what_is_at_hand_is_given_without_a_turn_of_the_loop():
    async def main() -> None:
        async with pk.open_async("synthetic:100") as kext:
            await anext(kext)
            turns = []
            asyncio.get_running_loop().call_soon(turns.append, "turn")
            for _ in range(99):
                coroutine = kext.__anext__()
                assert inspect.iscoroutine(coroutine)
                with pytest.raises(StopIteration):
                    coroutine.send(None)
            assert turns == []

    asyncio.run(main())


def test_other_tasks_get_their_turn_between_batches(loops):
    async def main() -> int:
        turns = 0
        running = True

        async def other() -> None:
            nonlocal turns
            while running:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        async with pk.open_async("synthetic:1000", max_requests=10) as kext:
            async for request in kext:
                request.accept()
        running = False
        await task
        return turns

    assert run(loops, main) >= 100


PLANS = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.integers(1, 8)),
        st.tuples(st.just("batch"), st.integers(1, 4)),
        st.tuples(st.just("cancel"), st.integers(0, 10_000)),
        st.tuples(st.just("turns"), st.integers(0, 5)),
        st.tuples(st.just("sleep"), st.integers(0, 3)),
        st.tuples(st.just("decide"), st.integers(0, 10_000)),
    ),
    max_size=60,
)


class Player:
    """Carries out a plan, and knows what was given."""

    def __init__(self, kext: pk.AsyncKext) -> None:
        self.kext = kext
        self.tasks: list[asyncio.Future] = []
        self.given: list[int] = []
        self.undecided: list[pk.VerdictRequest] = []

    def take(self, requests) -> None:
        for request in requests:
            self.given.append(request.id)
            self.undecided.append(request)

    async def request(self, count: int) -> None:
        async for request in self.kext:
            self.take([request])
            count -= 1
            if count == 0:
                return

    async def batch(self, most: int) -> None:
        async for batch in self.kext.batches(most, max_wait=None if most % 2 else 0.001):
            assert len(batch) <= most
            self.take(batch)
            return

    async def play(self, plan) -> None:
        for what, number in plan:
            if what in ("request", "batch"):
                self.tasks.append(asyncio.ensure_future(getattr(self, what)(number)))
            elif what == "cancel" and self.tasks:
                self.tasks[number % len(self.tasks)].cancel()
            elif what == "turns":
                for _ in range(number):
                    await asyncio.sleep(0)
            elif what == "sleep":
                await asyncio.sleep(number / 5_000)
            elif what == "decide" and self.undecided:
                self.undecided.pop(number % len(self.undecided)).drop()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError), result


def a_cancelled_wait_loses_no_request(host: Host, kind: str, plan, most: int) -> None:
    async def main() -> None:
        async with host.open_async("synthetic:200", max_requests=most) as kext:
            player = Player(kext)
            await player.play(plan)
            await player.end()
            # Whatever is left is given to whoever comes next.
            async for request in kext:
                player.take([request])
            assert len(set(player.given)) == len(player.given) == 200, "each once, none lost"
            for request in player.undecided:
                request.accept()
            kext.flush()
        counters = kext.counters()
        assert counters.balanced
        assert counters.events["verdict_applied"] == 200

    run(kind, main)
    host.settle()


@settings(deadline=None, max_examples=150)
@given(plan=PLANS, most=st.integers(1, 9))
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_cancelled_wait_loses_no_request(kind, plan, most):
    a_cancelled_wait_loses_no_request(Replay(), kind, plan, most)


@on_driver
@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plan=PLANS, most=st.integers(1, 9))
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_cancelled_wait_loses_no_request_of_the_driver(host, kind, plan, most):
    a_cancelled_wait_loses_no_request(host, kind, plan, most)


def closing_at_any_time_leaves_nothing(host: Host, plan, most: int, thread: bool) -> None:
    async def main() -> None:
        kext = await host.open_async("synthetic:200", max_requests=most)
        player = Player(kext)
        await player.play(plan)
        if thread:
            closing = threading.Thread(target=kext.close)
            closing.start()
        else:
            kext.close()
        # Nobody is cancelled: the loops end, as at the end of a capture.
        results = await asyncio.gather(*player.tasks, return_exceptions=True)
        if thread:
            closing.join(10)
        for result in results:
            # A task that had not begun to iterate is told so.
            expected = (asyncio.CancelledError, pk.ClosedError)
            assert result is None or isinstance(result, expected), result
        counters = kext.counters()
        assert counters.balanced
        assert counters.held == 0
        assert len(set(player.given)) == len(player.given)

    gc.collect()
    before = threading.active_count()
    asyncio.run(main())
    host.settle()
    assert threading.active_count() == before
    assert not LINUX or readers() == 0


@settings(deadline=None, max_examples=60)
@given(plan=PLANS, most=st.integers(1, 9), thread=st.booleans())
def test_closing_at_any_time_ends_every_wait_and_leaves_nothing(plan, most, thread):
    closing_at_any_time_leaves_nothing(Replay(), plan, most, thread)


@on_driver
@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plan=PLANS, most=st.integers(1, 9), thread=st.booleans())
def test_closing_at_any_time_ends_every_wait_of_the_driver(host, plan, most, thread):
    closing_at_any_time_leaves_nothing(host, plan, most, thread)


@both
def test_a_time_limit_on_a_wait_loses_nothing(host, loops, slow):
    async def main() -> None:
        async with host.open_async(slow, realtime=True, local=[builders.CLIENT]) as kext:
            first = await asyncio.wait_for(anext(kext), 10)
            first.accept()
            for _ in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(kext), 0.005)
            begun = time.monotonic()
        assert time.monotonic() - begun < 0.2, "closing does not wait for the packet"

    run(loops, main)


@both
def test_a_cancel_scope_ends_a_wait_and_closes(host, slow):
    anyio = pytest.importorskip("anyio", reason="pip install anyio")

    device = host.device(slow, realtime=True)

    async def main() -> None:
        with anyio.move_on_after(0.2 if host.is_driver else 0.02) as scope:
            async with pk.open_async(device, realtime=True) as kext:
                async for request in kext:
                    request.accept()
        assert scope.cancelled_caught
        assert kext.closed
        counters = kext.counters()
        assert (passed(counters), counters.held) == (1, 0)

    anyio.run(main, backend="asyncio")


def test_a_task_group_is_left_cleanly(loops, slow):
    anyio = pytest.importorskip("anyio", reason="pip install anyio")

    async def read(kext: pk.AsyncKext) -> None:
        async for request in kext:
            request.accept()

    async def main() -> None:
        async with pk.open_async(slow, realtime=True) as kext:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(read, kext)
                await until(lambda: kext.counters().permitted == 1)
                group.cancel_scope.cancel()
            assert not kext.closed
        assert kext.closed

    run(loops, main)


@both
@pytest.mark.parametrize("where", ["task", "thread", "aclose"])
def test_closing_while_tasks_wait_ends_their_loops(host, loops, slow, where):
    async def read(kext: pk.AsyncKext) -> int:
        return sum([request.accept() is None async for request in kext])

    async def read_batches(kext: pk.AsyncKext) -> int:
        return sum([len(batch) async for batch in kext.batches()])

    async def main() -> None:
        kext = await host.open_async(slow, realtime=True, local=[builders.CLIENT])
        tasks = [asyncio.ensure_future(read(kext)) for _ in range(5)]
        await until(lambda: passed(kext.counters()) == 1)
        tasks += [asyncio.ensure_future(read_batches(kext)) for _ in range(2)]
        await asyncio.sleep(0)
        begun = time.monotonic()
        if where == "task":
            kext.close()
        elif where == "thread":
            threading.Thread(target=kext.close).start()
        else:
            await kext.aclose()
        assert sum(await asyncio.wait_for(asyncio.gather(*tasks), 5)) == 1
        assert time.monotonic() - begun < 0.2
        await kext.aclose()

    run(loops, main)


@both
def test_an_error_in_the_block_closes_too(host, loops):
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with host.open_async("synthetic:10") as kext:
                async for _ in kext:
                    1 / 0  # noqa: B018
        assert kext.closed
        counters = kext.counters()
        assert (counters.held, counters["permitted_no_reader"]) == (0, shown(counters))
        if LINUX:
            assert readers() == 0

    run(loops, main)


def test_a_loop_that_is_closed_leaves_a_session_that_can_be(slow):
    loop = asyncio.new_event_loop()
    kext = loop.run_until_complete(_opened(slow, realtime=True, local=[builders.CLIENT]))
    request = loop.run_until_complete(kext.__anext__())
    waiting = loop.create_task(kext.__anext__())
    loop.run_until_complete(asyncio.sleep(0.01))
    waiting.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.close()
    # The thread waits still, and finds the loop closed when it has something to tell.
    request.accept()
    kext.flush()
    assert kext.counters().permitted == 1
    kext.close()
    assert kext.closed
    if LINUX:
        assert readers() == 0


async def _opened(*arguments, **options) -> pk.AsyncKext:
    return await pk.open_async(*arguments, **options)


def test_another_loop_is_refused_in_words():
    kext = asyncio.run(_opened("synthetic:10"))

    async def iterate() -> None:
        async for _ in kext:
            pass

    async def iterate_batches() -> None:
        async for _ in kext.batches():
            pass

    async def one() -> None:
        await anext(kext)

    for main in (iterate, iterate_batches, one):
        with pytest.raises(pk.LoopError, match="belongs to another event loop"):
            asyncio.run(main())
    assert issubclass(pk.LoopError, pk.Error)
    asyncio.run(kext.aclose())
    assert kext.closed


def test_without_a_loop_it_says_what_to_do():
    opening = pk.open_async("synthetic:10")
    with pytest.raises(pk.LoopError, match=r"asyncio\.run, uvloop\.run"):
        opening.__await__().send(None)
    kext = asyncio.run(_opened("synthetic:10"))
    with pytest.raises(pk.LoopError, match="no asyncio event loop is running"):
        aiter(kext)
    kext.close()


def test_opening_is_awaited_once():
    async def main() -> None:
        opening = pk.open_async("synthetic:10")
        async with opening:
            with pytest.raises(pk.LoopError, match="awaited before"):
                await opening

    asyncio.run(main())


def test_arguments_are_checked_before_anything_is_awaited(tmp_path):
    with pytest.raises(pk.ConfigError, match="max_requests is 0"):
        pk.open_async("synthetic:10", max_requests=0)
    with pytest.raises(pk.ConfigError, match="payload is -1"):
        pk.open_async("synthetic:10", payload=-1)
    with pytest.raises(pk.DeviceError, match="nonsense"):
        asyncio.run(_opened("nonsense"))
    with pytest.raises(pk.CaptureError, match="missing"):
        asyncio.run(_opened(f"replay:{tmp_path / 'missing.pcap'}"))

    async def batches() -> None:
        async with pk.open_async("synthetic:10") as kext:
            for wrong in ({"max_requests": 5_000}, {"max_wait": -1}, {"payload": "some"}):
                with pytest.raises(pk.ConfigError):
                    kext.batches(**wrong)

    asyncio.run(batches())


def test_opening_that_is_cancelled_leaves_nothing(loops, tmp_path):
    path = tmp_path / "long.pcap"
    path.write_bytes(header() + record(frame(syn(80))) * 50_000)

    async def main() -> None:
        task = asyncio.ensure_future(_opened(f"replay:{path}"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: threading.active_count() == before)

    gc.collect()
    before = threading.active_count()
    run(loops, main)


def test_a_broken_capture_gives_all_that_could_be_read(tmp_path):
    path = tmp_path / "cut.pcap"
    whole = b"".join(record(frame(datagram(53, source_port=n + 1))) for n in range(20))
    path.write_bytes(header() + whole + record(frame(syn(81)))[:-1])

    async def main() -> None:
        async with pk.open_async(f"replay:{path}", max_requests=6) as kext:
            seen = 0
            with pytest.raises(pk.CaptureError, match="truncated"):
                async for request in kext:
                    request.accept()
                    seen += 1
            assert seen == 20
            with pytest.raises(pk.CaptureError):
                await anext(kext)
            # Of several that wait, each is told.
            results = await asyncio.gather(*(anext(kext) for _ in range(3)), return_exceptions=True)
            assert [type(result) for result in results] == [pk.CaptureError] * 3

    asyncio.run(main())


def test_a_batch_of_none_comes_when_its_time_is_over(loops, slow):
    async def main() -> None:
        async with pk.open_async(slow, realtime=True, local=[builders.CLIENT]) as kext:
            batches = kext.batches(max_wait=0.01)
            first = await anext(batches)
            assert first.remote_port.tolist() == [80]
            begun = time.monotonic()
            for _ in range(3):
                none = await anext(batches)
                assert len(none) == 0
                assert none.set_verdicts(pk.Verdict.ACCEPT).tolist() == []
            assert 0.02 < time.monotonic() - begun < 1
            # The reader waits by now, so there is nothing, at once.
            for _ in range(100):
                assert len(await anext(kext.batches(max_wait=0))) == 0
            assert len(await asyncio.wait_for(anext(kext.batches(max_wait=0)), 1)) == 0
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(kext.batches(max_wait=float("inf"))), 0.01)

    run(loops, main)


def test_without_a_wait_what_is_at_hand_is_fetched(loops):
    async def main() -> None:
        async with pk.open_async("synthetic:100") as kext:
            sizes = []
            async for batch in kext.batches(30, max_wait=0):
                sizes.append(len(batch))
                batch.set_verdicts(pk.Verdict.ACCEPT)
            assert sizes == [30, 30, 30, 10]

    run(loops, main)


def test_a_batch_is_no_larger_than_asked_for_whoever_fetched_it(loops):
    async def main() -> None:
        async with pk.open_async("synthetic:100", max_requests=50, payload=20) as kext:
            first = await anext(kext)
            batch = await anext(kext.batches(7))
            assert len(batch) == 7
            assert batch[0].id != first.id
            assert batch[0].payload is not None, "as was asked for when it was fetched"
            rest = [len(batch) async for batch in kext.batches(40)]
            assert rest == [40, 2, 40, 10]

    run(loops, main)


@both
def test_the_calls_of_a_session_are_plain_calls(host, loops):
    device = host.device("synthetic:5")

    async def main() -> None:
        async with pk.open_async(device, payload=8) as kext:
            events = kext.connection_events()
            request = await anext(kext)
            assert kext.get_payload(request.id)[:8] == request.payload
            request.accept()
            assert [flow.verdict for flow in kext.flows()] == [pk.Verdict.ACCEPT]
            assert len(kext.flows().columns()) == 1
            kext.config = pk.Config(hold_limit_ms=5_000)
            assert kext.config.hold_limit_ms == 5_000
            kext.clear_cache()
            assert (list(events), events.lost) == ([], 0), "the cache has not met it yet"
            assert kext.device == device
            if not host.is_driver:
                assert kext.replay_report().presented == 5

    run(loops, main)


def test_a_session_that_is_dropped_leaves_no_thread(slow):
    async def main() -> None:
        kext = await pk.open_async(slow, realtime=True, local=[builders.CLIENT])
        (await anext(kext)).accept()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(anext(kext), 0.01)
        assert readers() == 1
        # From 3.12 on a task has its last cancellation, frames and all, until its next step.
        await asyncio.sleep(0)
        del kext
        gc.collect()
        assert readers() == 0

    asyncio.run(main())


INTERRUPTED = """
import asyncio, sys
import portmaster_kext as pk
async def main():
    async with pk.open_async(sys.argv[1], realtime=True) as kext:
        try:
            async for request in kext:
                request.accept()
                print("waiting", flush=True)
        finally:
            assert kext.counters().balanced
            print("interrupted", flush=True)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("ended", flush=True)
"""


@both
@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in another way there")
def test_ctrl_c_ends_a_wait(host, slow):
    command = [sys.executable, "-c", INTERRUPTED, host.device(slow, realtime=True)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - begun < 0.25
        assert process.stdout.readline() == "ended\n"
        assert process.wait(10) == 0


FORGOTTEN = """
import asyncio, sys
import portmaster_kext as pk
async def main():
    global kext, task
    kext = await pk.open_async("replay:" + sys.argv[1], realtime=True)
    (await anext(kext)).accept()
    try:
        await asyncio.wait_for(anext(kext), 0.01)
    except asyncio.TimeoutError:
        print("waiting", flush=True)
asyncio.run(main())
"""


def test_a_process_ends_although_a_session_was_forgotten(tmp_path):
    command = [sys.executable, "-c", FORGOTTEN, builders.slow(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "waiting\n", "")


FORKED = """
import asyncio, os, sys
import portmaster_kext as pk
async def main():
    async with pk.open_async("synthetic:100", max_requests=10) as kext:
        (await anext(kext)).accept()
        child = os.fork()
        if child == 0:
            try:
                try:
                    kext._next()
                except pk.ForkError as error:
                    assert "forked" in str(error)
                    kext.close()
                    del kext
                    os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        async for request in kext:
            request.accept()
    assert kext.counters().permitted == 100
asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")
def test_a_forked_child_is_refused_and_the_parent_goes_on():
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")


WEB = f"replay:{Path(__file__).parents[1] / 'captures' / 'web.pcapng'}"


def test_requests_that_follow_a_late_verdict_are_given_by_the_next_loop():
    async def main() -> int:
        async with pk.open_async(WEB) as kext:
            for request in [request async for request in kext]:
                request.accept(permanent=False)
            return len([request async for request in kext])

    with pk.open(WEB) as kext:
        for request in list(kext):
            request.accept(permanent=False)
        wanted = len(list(kext))
    assert wanted > 0
    assert asyncio.run(main()) == wanted


def test_a_session_of_a_closed_loop_is_collected(slow):
    async def main() -> weakref.ref[pk.AsyncKext]:
        kext = await pk.open_async(slow, realtime=True, local=[builders.CLIENT])

        async def forever() -> None:
            async for request in kext:
                request.accept()
                waiting.set()

        waiting = asyncio.Event()
        asyncio.get_running_loop().create_task(forever())
        await waiting.wait()
        await asyncio.sleep(0)
        return weakref.ref(kext)

    loop = asyncio.new_event_loop()
    # That a task was destroyed which waited: whoever closes a loop like this is told so.
    loop.set_exception_handler(lambda loop, context: None)
    kext = loop.run_until_complete(main())
    loop.close()
    del loop
    # The reader's thread may be about to tell of what has come.
    deadline = time.monotonic() + 10
    while kext() is not None and time.monotonic() < deadline:
        gc.collect()
    assert kext() is None
    assert readers() == 0
