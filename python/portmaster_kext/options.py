"""What a device is opened with, checked before anything is opened."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias, TypeGuard

from portmaster_kext import _native
from portmaster_kext.config import Capacities, Config
from portmaster_kext.errors import CaptureError, ConfigError

Network: TypeAlias = (
    str
    | ipaddress.IPv4Network
    | ipaddress.IPv6Network
    | ipaddress.IPv4Address
    | ipaddress.IPv6Address
)
"""A network such as `"192.0.2.0/24"`, or one address."""

Payload: TypeAlias = int | Literal["all"]
"""How many of a packet's first bytes come along with its request: 0 to 65,575, or all of them."""

_REPLAY = "replay:"

MAX_REQUESTS = 4_096
"""The most requests that come at once."""

_ALL = (1 << 32) - 1
"""The number for the whole packet."""

_MAX_PACKET = 65_575
"""The longest packet, in bytes."""


def opening(
    device: str,
    local: Network | Iterable[Network],
    output: str | os.PathLike[str] | None,
    realtime: bool,
    ask_all: bool,
    config: Config | None,
    capacities: Capacities | None,
    payload: Payload,
    max_requests: int,
    flush_interval: float,
) -> Callable[[], _native.Session]:
    """What opens the device; `portmaster_kext.open` tells of the arguments and the errors."""
    bytes_wanted = payload_number(payload)
    most = checked_max_requests(max_requests)
    interval = checked_seconds("flush_interval", flush_interval)
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
    return functools.partial(
        _native.Session,
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


def _is_int(value: object) -> TypeGuard[int]:
    """Whether it is a number, and not True or False, which are integers for Python."""
    return isinstance(value, int) and not isinstance(value, bool)


def payload_number(payload: Payload) -> int:
    """The number for so much payload, or `ConfigError`."""
    if payload == "all":
        return _ALL
    if _is_int(payload) and 0 <= payload <= _MAX_PACKET:
        return int(payload)
    raise ConfigError(
        f"payload is {payload!r}, and must be a number of bytes from 0 to {_MAX_PACKET}, or 'all'"
    )


def checked_max_requests(number: int) -> int:
    """The number, if so many requests can come at once, or `ConfigError`."""
    if _is_int(number) and 1 <= number <= MAX_REQUESTS:
        return int(number)
    raise ConfigError(f"max_requests is {number!r}, and must be from 1 to {MAX_REQUESTS}")


def checked_seconds(name: str, seconds: float) -> float:
    """The time, if it is one, or `ConfigError`."""
    if isinstance(seconds, (int, float)) and seconds >= 0:
        # What no float can hold is longer than anybody waits.
        with contextlib.suppress(OverflowError):
            return float(seconds)
    raise ConfigError(f"{name} is {seconds!r}, and must be a number of seconds, 0 or more")
