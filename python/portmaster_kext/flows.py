"""The flows of a session: those that are cached, and those that have ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from portmaster_kext import _native
from portmaster_kext.verdicts import FlowEnd

_PAGE = 1024
"""Flows asked for in one call."""

MAX_EVENTS = 4_096
"""The most ended flows that one call brings."""


class Flows(Iterator[_native.Flow]):
    """The flows whose verdict is cached, in no stated order; made by `Kext.flows`.

    Iterate over it for one `Flow` after another, or take all of them as arrays by `columns`. A flow
    that is cached while the listing runs may be missed. Threads that share it get each flow once.
    Both raise `ClosedError`.

    >>> with pk.open("synthetic:100,payload=72") as kext:
    ...     for request in kext:
    ...         request.accept()
    ...     int(kext.flows().columns().bytes_out.sum())
    10000
    """

    __slots__ = ("_cursor", "_native", "_page", "_turn")

    def __init__(self, native: _native.Session) -> None:
        self._native = native
        self._cursor: int | None = 0
        self._page: Iterator[_native.Flow] = iter(())
        self._turn = threading.Lock()

    def __next__(self) -> _native.Flow:
        with self._turn:
            while True:
                for flow in self._page:
                    return flow
                if self._cursor is None:
                    raise StopIteration
                page, self._cursor = self._native.list_flows(self._cursor, _PAGE)
                self._page = iter(page)

    def columns(self) -> _native.FlowBatch:
        """All cached flows as arrays, whatever was iterated over before."""
        return self._native.flow_batch()


class FlowEvent(NamedTuple):
    """A flow that has left the verdict cache."""

    flow: _native.Flow
    """The flow as it was last."""
    end: FlowEnd
    """Why it ended."""


class ConnectionEvents(Iterator[FlowEvent]):
    """The flows that leave the verdict cache; made by `Kext.connection_events`.

    Iterating gives the ones that wait now, the one that ended first at the beginning, and ends
    where none waits; iterate again later for those that have ended since. `columns` gives them as
    arrays. Each is given once, whichever threads ask. At most 1,024 wait, and the rest is lost and
    counted. Leave the `with` block, or call `close`, to stop it. All methods raise `ClosedError` on
    a closed session.

    A flow that ends by time or by clearing is told of when the cache next meets it.
    """

    __slots__ = ("_ended", "_native")

    def __init__(self, session: _native.Session) -> None:
        self._native = session
        # From now on they are kept.
        self._ended = _native.EndedFlows(session)

    def __next__(self) -> FlowEvent:
        event = self._ended.next()
        if event is None:
            raise StopIteration
        flow, end = event
        return FlowEvent(flow, FlowEnd(end))

    def columns(self, max_events: int = MAX_EVENTS) -> _native.FlowEventBatch:
        """The flows that have ended and were not given yet, at most 1 to 4,096, as arrays.

        They may be fewer although more wait: first come those that were fetched for iterating.
        """
        if not 1 <= max_events <= MAX_EVENTS:
            raise ValueError(f"max_events is {max_events}, and must be from 1 to {MAX_EVENTS}")
        return self._ended.columns(max_events)

    @property
    def lost(self) -> int:
        """How many found no room since the device was opened, as of the last look."""
        return self._ended.lost

    def close(self) -> None:
        """Keep no more of them; those that wait are forgotten."""
        self._ended.close()

    def __enter__(self) -> ConnectionEvents:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._native.closed:
            self.close()
