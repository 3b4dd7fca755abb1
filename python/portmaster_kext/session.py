"""Opening a device, and the session with it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeAlias

from portmaster_kext import _native
from portmaster_kext.config import Config
from portmaster_kext.counters import Counters
from portmaster_kext.errors import (
    CaptureError,
    ClosedError,
    ConfigError,
    InvalidVerdictError,
    UnknownIdError,
)
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

_PAGE = 1024
"""Flows asked for in one call."""


def open(  # noqa: A001 - `pk.open` reads like what it is
    device: str,
    *,
    local: Network | Iterable[Network] = (),
    output: str | os.PathLike[str] | None = None,
    realtime: bool = False,
    ask_all: bool = False,
    config: Config | None = None,
) -> Kext:
    r"""Open a device and start to be asked for verdicts.

    `device` is `"replay:FILE"`, a pcap or pcapng file whose packets are presented by its own time
    stamps. `r"\\.\PortmasterKext"` (the Windows driver) and `"nfqueue:N"` (live packets on Linux)
    are refused where the platform or the build lacks them.

    The next three are for replay:

    - `local`: the networks or addresses on this side of the capture. Without any they are inferred
      from it, and `Kext.replay_report` says what was found.
    - `output`: a pcapng file to write every packet to that leaves; an existing file is replaced.
    - `realtime`: wait between packets as the capture's time stamps say, instead of going at once.

    `ask_all` asks for every flow, also those that are let go unasked by default because a machine
    needs them to work: neighbour discovery, DHCP, broadcast, multicast. `config` sets everything.

    Raises `DeviceError` for a device string that is not understood or not served here,
    `CaptureError` for a file that is no capture or an output that cannot be written or is the
    capture itself, and `ConfigError` for a value out of range or a network that is none.
    """
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
    return Kext(_native.Session(device, networks, path, realtime, settings))


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
    the capture does or when the session is closed, from whichever thread. All methods may be called
    from any thread at any time. Use it in a `with` block, or call `close`.
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

        Raises `AlreadyDecidedError` for a second verdict on one id, `NotHeldError` for a packet
        that was settled without a verdict, `UnknownIdError` for any other id,
        `InvalidVerdictError` for a verdict that is none, and `ClosedError`.
        """
        number = _verdict(verdict)
        self._native.set_verdict(_id(id), number, permanent)

    def get_payload(self, id: int) -> bytes:  # noqa: A002
        """The bytes of the held packet `id`, from its IP header on, up to 65,575.

        Fewer than `VerdictRequest.size` if the capture had cut the packet short. The packet stays
        held. Raises as `set_verdict` does.
        """
        return self._native.get_payload(_id(id))

    def counters(self) -> Counters:
        """The counters now. After `close` those of the end, when nothing was held any more."""
        return Counters(self._native.counters())

    def flows(self) -> Iterator[_native.Flow]:
        """The flows whose verdict is cached, in no stated order.

        A flow that is cached while the listing runs may be missed. Raises `ClosedError`.
        """
        cursor: int | None = 0
        while cursor is not None:
            page, cursor = self._native.list_flows(cursor, _PAGE)
            yield from page

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

        Waiting reads in other threads end. Closing twice is fine. Raises `CaptureError` if the
        output file could not be written to its end; the session is closed nevertheless.
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
