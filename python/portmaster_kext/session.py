"""Opening a device, and the session with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from types import TracebackType

from portmaster_kext import _native
from portmaster_kext.calls import SessionCalls
from portmaster_kext.config import Capacities, Config
from portmaster_kext.errors import ClosedError
from portmaster_kext.options import (
    MAX_REQUESTS,
    Network,
    Payload,
    checked_max_requests,
    checked_seconds,
    opening,
    payload_number,
)


def open(  # noqa: A001 - `pk.open` reads like what it is
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
) -> Kext:
    r"""Open a device and start to be asked for verdicts.

    `device` is `"replay:FILE"`, a pcap or pcapng file whose packets are presented by its own time
    stamps. `"synthetic:COUNT"` makes up so many packets (1 to 4,294,967,295), each of a new UDP
    flow; `"synthetic:COUNT,payload=BYTES"` says how much data each carries (0 to 65,507, else 64).
    `r"\\.\PortmasterKext"` (the Windows driver) and `"nfqueue:N"` (live packets on Linux) are
    refused where the platform or the build lacks them. `"socket:PATH"` is the device of another
    process, which serves it on a Unix socket, for tests; `config` is put in force there, too.

    The next three are for replay:

    - `local`: the networks or addresses on this side of the capture. Without any they are inferred
      from it, and `Kext.replay_report` says what was found.
    - `output`: a pcapng file to write every packet to that leaves; an existing file is replaced.
    - `realtime`: wait between packets as the capture's time stamps say, instead of going at once.

    `ask_all` asks for every flow, also those that are let go unasked by default because a machine
    needs them to work: neighbour discovery, DHCP, broadcast, multicast. `config` sets everything.
    `capacities` says how much can be held, where this process runs the extension.

    The rest is about iterating over the session:

    - `payload`: how many of each packet's first bytes come along as `VerdictRequest.payload`, 0 to
      65,575 or `"all"`. Others are to be asked for by `Kext.get_payload`.
    - `max_requests`: how many requests are taken from the extension at once, 1 to 4,096. Requests
      that were taken and not given yet are held like any other. What a replay comes to does not
      depend on it if verdicts are permanent. With verdicts for single packets it may: a packet that
      came while another of its flow was undecided is asked about after that.
    - `flush_interval`: how long the verdict of a request waits at most to be sent together with
      others, in seconds. They are sent earlier when the iterator has nothing more to give, when
      4,096 wait, and by every other call of the session but `get_payload`. With 0 each is sent at
      once, and each error is raised by the call that it is about.

    Raises `DeviceError` for a device string that is not understood or not served here,
    `CaptureError` for a file that is no capture or an output that cannot be written or is the
    capture itself, and `ConfigError` for a value out of range or a network that is none.

    >>> with pk.open("synthetic:1000", payload=28) as kext:
    ...     for request in kext:
    ...         if request.remote_port == 23 or request.payload[0] != 0x45:
    ...             request.block()
    ...         else:
    ...             request.accept()
    >>> kext.counters().permitted
    1000
    """
    native = opening(
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
    )
    return Kext(native())


class Kext(SessionCalls):
    """A session with an open device; made by `open`.

    Iterating gives one `VerdictRequest` after another. It blocks until there is one, and ends when
    the capture does or when the session is closed, from whichever thread. `batches` gives many at
    once, as arrays. All methods may be called from any thread at any time. Use it in a `with`
    block, or call `close`.

    Verdicts for single requests are sent together, and soon: see `flush_interval` of `open`, and
    `flush`. The session belongs to the process that opened it: in a child made by `os.fork` every
    method raises `ForkError`, `close` excepted, which does nothing there.

    >>> with pk.open("synthetic:3") as kext:
    ...     [request.remote_port for request in kext if request.drop() is None]
    [443, 53, 53]
    """

    __slots__ = ()

    def __enter__(self) -> Kext:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[_native.VerdictRequest]:
        """The requests. Raises `ClosedError` on a closed session."""
        if self.closed:
            raise ClosedError("this session is closed; open the device again to get requests")
        # Not this object: between its `__next__` and the loop a signal could lose a request.
        return self._native

    def __next__(self) -> _native.VerdictRequest:
        """The next request; waits for it.

        Ctrl-C ends the wait with `KeyboardInterrupt`. In a `for` loop no request is lost by it; one
        that `next` has taken, and that has not been assigned yet, would be. Raises `CaptureError`
        if a capture cannot be read to its end, after all that could be.
        """
        return next(self._native)

    def batches(
        self,
        max_requests: int = MAX_REQUESTS,
        max_wait: float | None = None,
        payload: Payload = 0,
    ) -> Iterator[_native.RequestBatch]:
        """The requests in batches, as arrays: an iterator that ends when a loop over this would.

        A batch is at most `max_requests` requests (1 to 4,096), and fewer where no more are at
        hand; in replay at most half of what can be held (`Capacities.packets`), and with
        `Config.ask_each_packet` one by one. `payload` says how many of each packet's first bytes
        come along, 0 to 65,575 or `"all"`; a batch brings at most 4 MiB. `max_wait` is the longest
        wait for the first request, in seconds: a batch of none comes when it is over. None waits
        without limit.

        Requests that iterating has taken from the extension and not given come first, with the
        payload that was asked for then.

        >>> with pk.open("synthetic:1000") as kext:
        ...     for batch in kext.batches():
        ...         web = np.isin(batch.remote_port, [80, 443])
        ...         outcomes = batch.set_verdicts(np.where(web, pk.Verdict.DROP, pk.Verdict.ACCEPT))
        ...         assert (outcomes == pk.Outcome.APPLIED).all()
        >>> kext.counters().dropped > 0
        True
        """
        wait = None if max_wait is None else checked_seconds("max_wait", max_wait)
        return self._native.batches(
            checked_max_requests(max_requests), wait, payload_number(payload)
        )

    def cancel(self) -> None:
        """End the waits of now in other threads with `CancelledError`. No request is lost by it."""
        self._native.cancel()
