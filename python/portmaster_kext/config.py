"""The configuration of a running extension, and its capacities."""

from __future__ import annotations

import dataclasses
import enum
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from portmaster_kext.errors import ConfigError


class FallbackPolicy(enum.IntEnum):
    """What happens to packets that nobody can decide."""

    PERMIT = 0
    """Let them go."""
    BLOCK = 1
    """Refuse them, with an answer where one is allowed."""


class FragmentPolicy(enum.IntEnum):
    """What happens to fragments after the first, which carry no ports."""

    FOLLOW = 0
    """They go with their first fragment's flow."""
    BLOCK = 1
    """They are blocked."""
    PERMIT = 2
    """They are permitted."""


class Special(enum.IntEnum):
    """What happens to a class of packets that the machine needs to work at all."""

    PERMIT = 0
    """Let them go without asking."""
    ASK = 1
    """Treat them like any other packet."""


_ANY_V4 = IPv4Address(0)
_ANY_V6 = IPv6Address(0)


@dataclasses.dataclass(frozen=True)
class RedirectTarget:
    """Where redirected packets go.

    >>> pk.RedirectTarget(5353, v4="127.0.0.1").v4
    IPv4Address('127.0.0.1')
    """

    port: int
    """The target port, 1 to 65,535."""
    v4: IPv4Address = _ANY_V4
    """The target for IPv4 flows; 0.0.0.0 stands for the packet's own local address."""
    v6: IPv6Address = _ANY_V6
    """The target for IPv6 flows; `::` stands for the packet's own local address."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "v4", IPv4Address(self.v4))
        object.__setattr__(self, "v6", IPv6Address(self.v6))


_E = TypeVar("_E", bound=enum.IntEnum)


def _member(kind: type[_E], field: str, value: object) -> _E:
    """The member of `kind` that `value` is, by identity or number."""
    if isinstance(value, int):
        try:
            return kind(value)
        except ValueError:
            pass
    names = ", ".join(f"{kind.__name__}.{member.name}" for member in kind)
    raise ConfigError(f"{field} is {value!r}, and must be one of {names}")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that can be changed while the extension runs.

    Ranges are checked when the configuration is put in force. To change one field:

    >>> config = pk.Config(no_reader=pk.FallbackPolicy.BLOCK)
    >>> dataclasses.replace(config, hold_limit_ms=5_000).hold_limit_ms
    5000
    """

    no_reader: FallbackPolicy = FallbackPolicy.PERMIT
    """For packets that come while nobody reads, and those held when the last reader goes away."""
    unparsable: FallbackPolicy = FallbackPolicy.PERMIT
    """For packets whose headers cannot be parsed."""
    hold_limit: FallbackPolicy = FallbackPolicy.PERMIT
    """For packets held up to the hold limit."""
    fragments: FragmentPolicy = FragmentPolicy.FOLLOW
    """For fragments after the first."""
    infrastructure: Special = Special.PERMIT
    """For neighbour discovery, router advertisement, DHCP and DHCPv6."""
    broadcast: Special = Special.PERMIT
    """For packets to 255.255.255.255."""
    multicast: Special = Special.PERMIT
    """For packets to 224.0.0.0/4 and ff00::/8."""
    fast_track: Special = Special.PERMIT
    """For packets between this machine and its own redirect targets."""
    ask_each_packet: bool = False
    """Raise a request for each held packet, not only for the first of a flow."""
    hold_connects: bool = False
    """Hold a TCP connect until its verdict, so that a program that is refused is told so at once.

    Only where the host has connects to hold: the Windows driver. In a replay it changes nothing.
    """
    loop_limit: int = 3
    """How often a packet may be injected by us before the loop guard drops it, 1 to 255."""
    hold_limit_ms: int = 30_000
    """The longest time a packet is held, in milliseconds, 100 to 600,000."""
    flow_idle_ms: int = 600_000
    """How long a cached flow may be idle, in milliseconds, 1,000 to 86,400,000."""
    flow_closed_ms: int = 60_000
    """The same for a TCP flow that was closed, in milliseconds, 1,000 to 86,400,000."""
    replies_per_second: int = 1_000
    """How many answers to blocked packets may be injected a second, 0 to 1,000,000."""
    redirect_dns: RedirectTarget = RedirectTarget(53)
    """Where `Verdict.REDIRECT_DNS` sends packets."""
    redirect_tunnel: RedirectTarget = RedirectTarget(717)
    """Where `Verdict.REDIRECT_TUNNEL` sends packets."""

    def __post_init__(self) -> None:
        for field in ("no_reader", "unparsable", "hold_limit"):
            object.__setattr__(self, field, _member(FallbackPolicy, field, getattr(self, field)))
        fragments = _member(FragmentPolicy, "fragments", self.fragments)
        object.__setattr__(self, "fragments", fragments)
        for field in ("infrastructure", "broadcast", "multicast", "fast_track"):
            object.__setattr__(self, field, _member(Special, field, getattr(self, field)))
        for field in ("redirect_dns", "redirect_tunnel"):
            target = getattr(self, field)
            if not isinstance(target, RedirectTarget):
                raise ConfigError(f"{field} is {target!r}, and must be a RedirectTarget")

    def ask_all(self) -> Config:
        """This configuration with every special class asked for, so that each flow is."""
        return dataclasses.replace(
            self,
            infrastructure=Special.ASK,
            broadcast=Special.ASK,
            multicast=Special.ASK,
            fast_track=Special.ASK,
        )


@dataclasses.dataclass(frozen=True)
class Capacities:
    """How much the extension can hold, where this process runs it: replay.

    All memory is allocated when the device is opened. Ranges are checked then.

    >>> with pk.open("synthetic:8000", capacities=pk.Capacities(packets=8_192)) as kext:
    ...     undecided = list(kext)
    ...     kext.counters().held
    8000
    """

    flows: int = 65_536
    """Flows in the verdict cache, 1,024 to 1,048,576."""
    packets: int = 1_024
    """Held packets, 16 to 65,536. In replay a batch is at most half as many requests."""
    packet_bytes: int = 16_777_216
    """Bytes of held packets, 131,072 to 1,073,741,824."""
    flow_packets: int = 64
    """Held packets of one flow, 1 to 1,024."""
    fragments: int = 1_024
    """Fragmented packets followed at once, 16 to 65,536."""
