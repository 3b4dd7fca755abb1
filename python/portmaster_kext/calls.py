"""The calls of a session that never wait for requests: what `Kext` and `AsyncKext` share."""

from __future__ import annotations

from operator import index
from typing import SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

from portmaster_kext import _native
from portmaster_kext.config import Config
from portmaster_kext.counters import Counters
from portmaster_kext.errors import InvalidVerdictError, UnknownIdError
from portmaster_kext.flows import ConnectionEvents, Flows
from portmaster_kext.verdicts import Verdict

Verdicts: TypeAlias = Verdict | int | npt.ArrayLike
"""Verdicts: one for all, or an array of their numbers, 2 to 6."""


class SessionCalls:
    """What every session has, whichever way its requests are waited for.

    All methods may be called from any thread at any time.
    """

    __slots__ = ("_native",)

    def __init__(self, native: _native.Session) -> None:
        self._native = native

    def set_verdict(
        self,
        id: int,  # noqa: A002
        verdict: Verdict | int,
        permanent: bool = True,
    ) -> None:
        """Decide the held packet `id`.

        A permanent verdict stands for the packet's whole flow: it is cached, and every held packet
        of the flow follows it. Otherwise it is for this packet alone, and the flow's next one
        raises a request of its own.

        Raises `AlreadyDecidedError` for a second verdict on one id, `UnknownIdError` for an id that
        was never given, `InvalidVerdictError` for a verdict that is none, and `ClosedError`. A
        packet that is no longer held when the verdict is sent is told by `flush`, and by this call
        with `NotHeldError` if `flush_interval` is 0.

        >>> with pk.open("synthetic:1") as kext:
        ...     request = next(kext)
        ...     kext.set_verdict(request.id, pk.Verdict.DROP, permanent=False)
        ...     kext.set_verdict(request.id, pk.Verdict.ACCEPT)
        Traceback (most recent call last):
        portmaster_kext.errors.AlreadyDecidedError: packet ... has been decided before: drop, ...
        """
        number = _verdict(verdict)
        self._native.set_verdict(_id(id), number, permanent)

    def set_verdicts(
        self,
        ids: npt.ArrayLike,
        verdicts: Verdicts,
        permanent: bool | npt.ArrayLike = True,
    ) -> npt.NDArray[np.uint8]:
        """Decide many held packets at once, and return what became of each: codes of `Outcome`.

        `ids` is an array of integers; `verdicts` is one verdict for all or an array of as many, and
        so is `permanent`. They are sent before the call returns, and one that fails does not stop
        the others: look for codes that are not `Outcome.APPLIED`.

        Raises `InvalidVerdictError` if a number is no verdict and `ValueError` if lengths differ;
        nothing is decided then. Raises `ClosedError`.

        >>> with pk.open("synthetic:3") as kext:
        ...     ids = [request.id for request in kext]
        ...     kext.set_verdicts(ids, [pk.Verdict.ACCEPT, pk.Verdict.BLOCK, pk.Verdict.DROP])
        array([0, 0, 0], dtype=uint8)
        """
        return self._native.set_verdicts(ids, verdicts, permanent)

    def flush(self) -> None:
        """Send the verdicts that wait to be sent together, and return when they have arrived.

        Raises what became of the first verdict, since the last flush, that was not applied: mostly
        `NotHeldError`, for a packet that was settled before the verdict came; `AlreadyDecidedError`
        if another request's permanent verdict had decided its flow. All others have been applied,
        and each is counted (`counters().events`).

        >>> with pk.open("synthetic:2", flush_interval=60) as kext:
        ...     for request in kext:
        ...         request.accept()
        ...     kext.flush()
        ...     kext.counters().events["verdict_applied"]
        2
        """
        self._native.flush()

    def get_payload(self, id: int) -> bytes:  # noqa: A002
        """The bytes of the held packet `id`, from its IP header on, up to 65,575.

        Fewer than `VerdictRequest.size` if the capture had cut the packet short. The packet stays
        held. Raises `AlreadyDecidedError`, `NotHeldError` and `UnknownIdError` for a packet that is
        not held, and `ClosedError`.

        >>> with pk.open("synthetic:1,payload=100") as kext:
        ...     request = next(kext)
        ...     len(kext.get_payload(request.id)), request.size
        (128, 128)
        """
        return self._native.get_payload(_id(id))

    def process_path(self, process_id: SupportsIndex) -> str | None:
        r"""The path of the program that a process runs; None if the host has not told it.

        The Windows driver tells it with each flow of a process, in the form
        `\device\harddiskvolume3\…`, and remembers the last 1,024 processes. A path that is longer
        than 260 UTF-16 units is cut, and ends in `…`. A number that the system gives to another
        process has the path of the one before until that has a flow. A replay knows no paths.
        Raises `ClosedError`.

        >>> with pk.open("synthetic:1") as kext:
        ...     print(kext.process_path(4))
        None
        """
        number = index(process_id)
        return self._native.process_path(number) if 0 < number < 1 << 64 else None

    def counters(self) -> Counters:
        """The counters now. After `close` those of the end, when nothing was held any more.

        >>> with pk.open("synthetic:2") as kext:
        ...     next(kext).drop()
        ...     counters = kext.counters()
        >>> counters.seen, counters.dropped, counters.held, counters["dropped_verdict"]
        (2, 1, 1, 1)
        >>> print(kext.counters())
        seen 2 = permitted 1 + blocked 0 + dropped 1 + redirected 0 + held 0
          permitted_no_reader                    1
          dropped_verdict                        1
        requests 2, injected 0
        """
        return Counters(self._native.counters())

    def flows(self) -> Flows:
        """The flows whose verdict is cached: an iterator of `Flow`, or by `columns` arrays.

        Raises `ClosedError`, when they are asked for.

        >>> with pk.open("synthetic:5") as kext:
        ...     for request in kext:
        ...         request.accept()
        ...     [str(flow.verdict) for flow in kext.flows()][:2], len(kext.flows().columns())
        (['accept', 'accept'], 5)
        """
        return Flows(self._native)

    def connection_events(self) -> ConnectionEvents:
        """The flows that leave the verdict cache from now on, as far as they are asked for.

        There is one such queue for the device: two of these share what is in it.

        >>> with pk.open("synthetic:2000", capacities=pk.Capacities(flows=1024)) as kext:
        ...     with kext.connection_events() as events:
        ...         for batch in kext.batches():
        ...             outcomes = batch.set_verdicts(pk.Verdict.ACCEPT)
        ...         {str(event.end) for event in events}
        {'evicted'}
        """
        return ConnectionEvents(self._native)

    def clear_cache(self) -> None:
        """Forget every cached verdict: each flow is asked for anew. Held packets stay held.

        >>> with pk.open("synthetic:1") as kext:
        ...     next(kext).accept()
        ...     kext.clear_cache()
        ...     list(kext.flows())
        []
        """
        self._native.clear_cache()

    @property
    def config(self) -> Config:
        """The configuration in force; assign one to change it. Raises `ConfigError` then.

        >>> with pk.open("synthetic:1") as kext:
        ...     kext.config = dataclasses.replace(kext.config, hold_limit_ms=5_000)
        ...     kext.config.hold_limit_ms
        5000
        """
        return self._native.get_config()

    @config.setter
    def config(self, config: Config) -> None:
        self._native.set_config(config)

    def replay_report(self) -> _native.ReplayReport | None:
        """How far the replay has come, and which side is local; None for a live device.

        >>> with pk.open("synthetic:10") as kext:
        ...     request = next(kext)
        ...     kext.replay_report().presented
        10
        """
        return self._native.replay_report()

    @property
    def device(self) -> str:
        """The device string."""
        return self._native.device

    @property
    def closed(self) -> bool:
        """Whether the session has been closed."""
        return self._native.closed

    def close(self) -> None:
        """End the session: settle every held packet by the no-reader policy, finish the output.

        Verdicts that wait to be sent are sent first. Waiting reads in other threads end. Closing
        twice is fine, and so is closing in a forked child, where it does nothing. Raises
        `CaptureError` if the output file could not be written to its end; the session is closed
        nevertheless.
        """
        self._native.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.device!r}{', closed' if self.closed else ''}>"


def _verdict(verdict: Verdict | int) -> int:
    """The number of a verdict, or `InvalidVerdictError`."""
    # A float that equals a member would be found by value.
    if isinstance(verdict, int):
        try:
            return Verdict(verdict).value
        except ValueError:
            pass
    names = ", ".join(f"Verdict.{member.name} ({member.value})" for member in Verdict)
    raise InvalidVerdictError(f"{verdict!r} is no verdict; it must be one of {names}")


def _id(number: int) -> int:
    """`number`, if it fits the 64 bits of the protocol; a number that does not was never given."""
    if not isinstance(number, int):
        raise TypeError(f"an id is an int, not {type(number).__name__}")
    if not 0 <= number < 1 << 64:
        raise UnknownIdError(f"no packet has the id {number}: ids are from 1 to 2**64 - 1", number)
    return number
