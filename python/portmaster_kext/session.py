"""Opening a device, and the session with it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from portmaster_kext import _native
from portmaster_kext.config import Capacities, Config
from portmaster_kext.counters import Counters
from portmaster_kext.errors import (
    CaptureError,
    ClosedError,
    ConfigError,
    InvalidVerdictError,
    UnknownIdError,
)
from portmaster_kext.flows import ConnectionEvents, Flows
from portmaster_kext.verdicts import Verdict

Network: TypeAlias = (
    str
    | ipaddress.IPv4Network
    | ipaddress.IPv6Network
    | ipaddress.IPv4Address
    | ipaddress.IPv6Address
)
"""A network such as `"192.0.2.0/24"`, or one address."""

_REPLAY = "replay:"

Payload: TypeAlias = int | Literal["all"]
"""How many of a packet's first bytes come along with its request: 0 to 65,575, or all of them."""

Verdicts: TypeAlias = Verdict | int | npt.ArrayLike
"""Verdicts: one for all, or an array of their numbers, 2 to 6."""

MAX_REQUESTS = 4_096
"""The most requests that come at once."""

_ALL = (1 << 32) - 1
"""The number for the whole packet."""

_MAX_PACKET = 65_575
"""The longest packet, in bytes."""


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
    refused where the platform or the build lacks them.

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
      depend on it.
    - `flush_interval`: how long the verdict of a request waits at most to be sent together with
      others, in seconds. They are sent earlier when the iterator has nothing more to give, when
      4,096 wait, and by every other call of the session but `get_payload`. With 0 each is sent at
      once, and each error is raised by the call that it is about.

    Raises `DeviceError` for a device string that is not understood or not served here,
    `CaptureError` for a file that is no capture or an output that cannot be written or is the
    capture itself, and `ConfigError` for a value out of range or a network that is none.
    """
    bytes_wanted = _payload(payload)
    most = _max_requests(max_requests)
    interval = _seconds("flush_interval", flush_interval)
    settings = config if config is not None else Config()
    if ask_all:
        settings = settings.ask_all()
    # A network is iterable too, address by address.
    if isinstance(local, Network):
        local = (local,)
    networks = [network(one) for one in local]
    path = None if output is None else os.fsdecode(output)
    if path is not None and device.startswith(_REPLAY):
        capture = device.removeprefix(_REPLAY)
        if same_file(path, capture):
            raise CaptureError(f"{path}: is the capture itself; name another file for the output")
    return Kext(
        _native.Session(
            device,
            networks,
            path,
            realtime,
            settings,
            capacities if capacities is not None else Capacities(),
            bytes_wanted,
            most,
            interval,
        )
    )


def network(value: Network) -> str:
    """The network as text. Raises `ConfigError` if it is none, `TypeError` for another type."""
    if not isinstance(value, Network):
        raise TypeError(f"a network is text such as '192.0.2.0/24', not {value!r}")
    try:
        found = ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise ConfigError(f"local: {error}") from None
    if "%" in str(found):
        raise ConfigError(f"local: {value!r} has a scope, which captures do not tell; leave it out")
    return str(found)


def same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether both paths lead to one file; no if either leads to none."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


class Kext:
    """A session with an open device; made by `open`.

    Iterating gives one `VerdictRequest` after another. It blocks until there is one, and ends when
    the capture does or when the session is closed, from whichever thread. `batches` gives many at
    once, as arrays. All methods may be called from any thread at any time. Use it in a `with`
    block, or call `close`.

    Verdicts for single requests are sent together, and soon: see `flush_interval` of `open`, and
    `flush`. The session belongs to the process that opened it: in a child made by `os.fork` every
    method raises `ForkError`, `close` excepted, which does nothing there.
    """

    __slots__ = ("_native",)

    def __init__(self, native: _native.Session) -> None:
        self._native = native

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
        """
        return self._native.set_verdicts(ids, verdicts, permanent)

    def flush(self) -> None:
        """Send the verdicts that wait to be sent together, and return when they have arrived.

        Raises what became of the first verdict, since the last flush, that was not applied: mostly
        `NotHeldError`, for a packet that was settled before the verdict came; `AlreadyDecidedError`
        if another request's permanent verdict had decided its flow. All others have been applied,
        and each is counted (`counters().events`).
        """
        self._native.flush()

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

        >>> for batch in kext.batches():  # doctest: +SKIP
        ...     telnet = batch.remote_port == 23
        ...     batch.set_verdicts(np.where(telnet, pk.Verdict.BLOCK, pk.Verdict.ACCEPT))
        """
        wait = None if max_wait is None else _seconds("max_wait", max_wait)
        return self._native.batches(_max_requests(max_requests), wait, _payload(payload))

    def get_payload(self, id: int) -> bytes:  # noqa: A002
        """The bytes of the held packet `id`, from its IP header on, up to 65,575.

        Fewer than `VerdictRequest.size` if the capture had cut the packet short. The packet stays
        held. Raises `AlreadyDecidedError`, `NotHeldError` and `UnknownIdError` for a packet that is
        not held, and `ClosedError`.
        """
        return self._native.get_payload(_id(id))

    def counters(self) -> Counters:
        """The counters now. After `close` those of the end, when nothing was held any more."""
        return Counters(self._native.counters())

    def flows(self) -> Flows:
        """The flows whose verdict is cached: an iterator of `Flow`, or by `columns` arrays."""
        return Flows(self._native)

    def connection_events(self) -> ConnectionEvents:
        """The flows that leave the verdict cache from now on, as far as they are asked for.

        There is one such queue for the device: two of these share what is in it.
        """
        return ConnectionEvents(self._native)

    def cancel(self) -> None:
        """End the waits of now in other threads with `CancelledError`. No request is lost by it."""
        self._native.cancel()

    def clear_cache(self) -> None:
        """Forget every cached verdict: each flow is asked for anew. Held packets stay held."""
        self._native.clear_cache()

    @property
    def config(self) -> Config:
        """The configuration in force; assign one to change it. Raises `ConfigError` then."""
        return self._native.get_config()

    @config.setter
    def config(self, config: Config) -> None:
        self._native.set_config(config)

    def replay_report(self) -> _native.ReplayReport | None:
        """How far the replay has come, and which side is local; None for a live device."""
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
        return f"<Kext {self.device!r}{', closed' if self.closed else ''}>"


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


def _payload(payload: Payload) -> int:
    """The number for so much payload, or `ConfigError`."""
    if payload == "all":
        return _ALL
    if isinstance(payload, int) and 0 <= payload <= _MAX_PACKET:
        return int(payload)
    raise ConfigError(
        f"payload is {payload!r}, and must be a number of bytes from 0 to {_MAX_PACKET}, or 'all'"
    )


def _max_requests(number: int) -> int:
    """The number, if so many requests can come at once, or `ConfigError`."""
    if isinstance(number, int) and 1 <= number <= MAX_REQUESTS:
        return int(number)
    raise ConfigError(f"max_requests is {number!r}, and must be from 1 to {MAX_REQUESTS}")


def _seconds(name: str, seconds: float) -> float:
    """The time, if it is one, or `ConfigError`."""
    if isinstance(seconds, (int, float)) and seconds >= 0:
        return float(seconds)
    raise ConfigError(f"{name} is {seconds!r}, and must be a number of seconds, 0 or more")
