"""Sessions for asyncio: requests are awaited, and everything else is as in `Kext`.

An event loop must not wait for a device, so a thread does: one for each session, from the first
wait on until it is closed. It takes a batch when a task has nothing to go on with, and no more, and
hands it over through the loop. Tasks take out of that batch without another switch.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from types import TracebackType
from typing import TypeVar

from portmaster_kext import _native
from portmaster_kext.calls import SessionCalls
from portmaster_kext.config import Capacities, Config
from portmaster_kext.errors import ClosedError, LoopError
from portmaster_kext.options import (
    MAX_REQUESTS,
    Network,
    Payload,
    checked_max_requests,
    checked_seconds,
    opening,
    payload_number,
)

_T = TypeVar("_T")


def open_async(
    device: str,
    *,
    local: Network | Iterable[Network] = (),
    output: str | os.PathLike[str] | None = None,
    realtime: bool = False,
    ask_all: bool = False,
    config: Config | None = None,
    capacities: Capacities | None = None,
    payload: Payload = 0,
    max_requests: int = MAX_REQUESTS,
    flush_interval: float = 0.001,
) -> OpeningKext:
    """Open a device for the tasks of an asyncio event loop; arguments and errors as for `open`.

    To be used as `async with pk.open_async(…) as kext`, or awaited for a session that is to be
    closed by its owner. The device is opened in a thread, as a capture may have to be read to its
    end for it. Arguments are checked here and now.

    Works in every loop that is asyncio's by its interface: asyncio's own, uvloop, and anyio with
    its asyncio backend. The session belongs to the loop in which it was awaited; `LoopError` is
    raised where there is none.

    >>> import asyncio
    >>> async def main() -> int:
    ...     async with pk.open_async("synthetic:1000") as kext:
    ...         async for request in kext:
    ...             request.accept()
    ...     return kext.counters().permitted
    >>> asyncio.run(main())
    1000
    """
    return OpeningKext(
        opening(
            device,
            local,
            output,
            realtime,
            ask_all,
            config,
            capacities,
            payload,
            max_requests,
            flush_interval,
        ),
        checked_max_requests(max_requests),
        payload_number(payload),
    )


class OpeningKext:
    """A device that is about to be opened; made by `open_async`. Await it, or enter it, once."""

    __slots__ = ("_kext", "_max_requests", "_open", "_payload")

    def __init__(
        self, open_device: Callable[[], _native.Session], max_requests: int, payload: int
    ) -> None:
        self._open: Callable[[], _native.Session] | None = open_device
        self._max_requests = max_requests
        self._payload = payload
        self._kext: AsyncKext | None = None

    async def _opened(self) -> AsyncKext:
        loop = _running_loop()
        open_device, self._open = self._open, None
        if open_device is None:
            raise LoopError("this was awaited before; call open_async again for another session")
        native = await _in_thread(loop, open_device)
        return AsyncKext(native, loop, self._max_requests, self._payload)

    def __await__(self) -> Generator[object, None, AsyncKext]:
        return self._opened().__await__()

    async def __aenter__(self) -> AsyncKext:
        self._kext = await self._opened()
        return self._kext

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._kext is not None:
            await self._kext.aclose()


class AsyncKext(SessionCalls):
    """A session with an open device for the tasks of one event loop; made by `open_async`.

    `async for request in kext` gives one `VerdictRequest` after another, and `batches` many at
    once. Several tasks may iterate at the same time: each request is given once. A loop over them
    ends when the capture does, or when the session is closed, from whichever task or thread. A
    verdict for one packet (`permanent=False`) that is given after that has the flow's next packet
    ask: iterate again for it, as with `Kext`.

    A task that is cancelled while it waits loses nothing: what comes is given to the next one that
    asks. A request that is at hand is given without a turn of the event loop; other tasks get
    theirs before the next batch is fetched, at the latest after `max_requests` of `open_async`.

    Verdicts and all other calls are plain calls, for any task and any thread; they take
    microseconds. `flush`, `clear_cache` and their like wait for the extension, which is as quick.
    A callable that decides slowly belongs into a task of its own: the packet stays held meanwhile,
    and others are decided.
    """

    __slots__ = ("__weakref__", "_loop", "_max_requests", "_next", "_payload", "_reader", "_waits")

    def __init__(
        self,
        native: _native.Session,
        loop: asyncio.AbstractEventLoop,
        max_requests: int,
        payload: int,
    ) -> None:
        super().__init__(native)
        self._loop = loop
        self._max_requests = max_requests
        self._payload = payload
        self._waits = _Waits(loop)
        # The reader's thread must not keep alive who waits: it would, beyond the end of the loop.
        notify = weakref.WeakMethod(self._waits.notify)

        def tell() -> None:
            if (method := notify()) is not None:
                method()

        self._reader = _native.AsyncReader(native, tell)
        self._next = self._reader.next_request

    async def __aenter__(self) -> AsyncKext:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncKext:
        """The requests. Raises `ClosedError` on a closed session, `LoopError` in another loop."""
        self._check()
        self._reader.begin_again()
        return self

    async def __anext__(self) -> _native.VerdictRequest:
        """The next request; waits for it.

        Raises `CaptureError` if a capture cannot be read to its end, after all that could be.
        """
        request = self._next()
        while request is None:
            await self._waits.arrival(self._reader, self._max_requests, self._payload)
            request = self._next()
        return request

    def batches(
        self,
        max_requests: int = MAX_REQUESTS,
        max_wait: float | None = None,
        payload: Payload = 0,
    ) -> AsyncBatches:
        """The requests in batches, as arrays, for `async for`; as `Kext.batches` otherwise.

        >>> import asyncio
        >>> async def main() -> int:
        ...     async with pk.open_async("synthetic:1000") as kext:
        ...         async for batch in kext.batches():
        ...             telnet = batch.remote_port == 23
        ...             batch.set_verdicts(np.where(telnet, pk.Verdict.BLOCK, pk.Verdict.ACCEPT))
        ...     return kext.counters().seen
        >>> asyncio.run(main())
        1000
        """
        wait = None if max_wait is None else checked_seconds("max_wait", max_wait)
        if wait is not None and math.isinf(wait):
            wait = None
        most = checked_max_requests(max_requests)
        return AsyncBatches(self, most, wait, payload_number(payload))

    def close(self) -> None:
        """End the session, as `Kext.close` does, from any task or thread.

        Loops of tasks that wait end. It takes as long as the rest of the output file does to be
        written; `aclose` does not keep the event loop waiting for that.
        """
        try:
            super().close()
        finally:
            self._reader.stop()

    async def aclose(self) -> None:
        """The same in a thread. A task that is cancelled meanwhile goes on when it is closed."""
        try:
            await asyncio.shield(_in_thread(_running_loop(), self.close))
        except asyncio.CancelledError:
            # Returns when the other one is done. Not awaited: whoever is cancelled for good, as by
            # a cancel scope, could not wait, and would leave the session half closed.
            self.close()
            raise

    def _check(self) -> None:
        if self.closed:
            raise ClosedError("this session is closed; open the device again to get requests")
        if _running_loop() is not self._loop:
            raise LoopError(_OTHER_LOOP)


class AsyncBatches(AsyncIterator[_native.RequestBatch]):
    """The requests of a session batch by batch; made by `AsyncKext.batches`."""

    __slots__ = ("_kext", "_max_requests", "_payload", "_wait")

    def __init__(
        self, kext: AsyncKext, max_requests: int, wait: float | None, payload: int
    ) -> None:
        self._kext = kext
        self._max_requests = max_requests
        self._wait = wait
        self._payload = payload

    def __aiter__(self) -> AsyncBatches:
        """The batches. Raises `ClosedError` on a closed session, `LoopError` in another loop."""
        self._kext._check()
        self._kext._reader.begin_again()
        return self

    async def __anext__(self) -> _native.RequestBatch:
        """The next batch; waits for it, and gives one of no requests when `max_wait` is over."""
        reader, waits, wait = self._kext._reader, self._kext._waits, self._wait
        batch = reader.next_batch(self._max_requests)
        if batch is not None:
            return batch
        until = None if wait is None else self._kext._loop.time() + wait
        while batch is None:
            in_time = await waits.arrival(reader, self._max_requests, self._payload, until)
            batch = reader.next_batch(self._max_requests)
            if batch is None and not in_time:
                return reader.empty_batch(self._payload)
        return batch


class _Waits:
    """The waits of a loop's tasks for something to arrive.

    All of them end at once when something does. So none has anything that a cancelled task could
    take with it, and a task that finds nothing left waits again.
    """

    __slots__ = ("__weakref__", "_futures", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # In the order in which they began; a set would forget it.
        self._futures: dict[asyncio.Future[None], None] = {}

    def notify(self) -> None:
        """Say, in the reader's thread, that something has arrived."""
        # If the loop has been closed, nobody waits in it any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._arrived)

    def _arrived(self) -> None:
        futures, self._futures = self._futures, {}
        for future in futures:
            _settle(future)

    async def arrival(
        self,
        reader: _native.AsyncReader,
        max_requests: int,
        payload: int,
        until: float | None = None,
    ) -> bool:
        """Wait until something has arrived; False if `until`, by the loop's clock, came first.

        With a time that has come already, what is at hand in the extension is fetched all the same.
        """
        loop = self._loop
        if _running_loop() is not loop:
            raise LoopError(_OTHER_LOOP)
        left = None if until is None else until - loop.time()
        over = left is not None and left <= 0
        if not reader.wish(max_requests, payload, over) and over:
            # The reader waits already: nothing is at hand. The other tasks get their turn.
            await asyncio.sleep(0)
            return False
        future: asyncio.Future[None] = loop.create_future()
        self._futures[future] = None
        timer = None if left is None or over else loop.call_later(left, _settle, future)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            # If it is there still, nothing has arrived.
            arrived = future not in self._futures
            self._futures.pop(future, None)
        return arrived and not over


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_OTHER_LOOP = (
    "this session belongs to another event loop, the one in which it was opened; open the device "
    "in the loop that is to use it"
)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise LoopError(
            "no asyncio event loop is running here; call this in one (asyncio.run, uvloop.run, or "
            "anyio.run with its asyncio backend), or use portmaster_kext.open"
        ) from None


def _in_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], _T]) -> asyncio.Future[_T]:
    """Call in a thread that ends with the call.

    The loop's executor would keep its threads for as long as the loop is there. What comes of the
    call after the future was cancelled is let go of: a session is closed by that.
    """
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: list[_T], error: BaseException | None) -> None:
        # To say so was the last thing that it did.
        thread.join()
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result[0])

    def run() -> None:
        result: list[_T] = []
        error: BaseException | None = None
        try:
            result.append(call())
        except BaseException as raised:
            error = raised
        # If the loop has been closed, nobody waits for it any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, error)

    thread = threading.Thread(target=run, name="kext-call")
    thread.start()
    return future
