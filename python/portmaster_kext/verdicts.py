"""Verdicts, outcomes, directions and the like: the small enumerations of the package.

The numbers are those of the wire format; `docs/wire-format.md` lists them.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Verdict(enum.IntEnum):
    """What is to happen to a packet or a flow."""

    ACCEPT = 2
    """Let it go."""
    BLOCK = 3
    """Refuse it with an answer: a TCP reset, else an ICMP unreachable message."""
    DROP = 4
    """Discard it in silence."""
    REDIRECT_DNS = 5
    """Send it to the configured DNS resolver instead."""
    REDIRECT_TUNNEL = 6
    """Send it to the configured tunnel entry instead."""

    def __str__(self) -> str:
        """The verdict's name in lower case, as the command line writes it."""
        return self.name.lower()

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


class Direction(enum.IntEnum):
    """Which way a packet goes, seen from this machine."""

    OUTBOUND = 0
    """From this machine to the network."""
    INBOUND = 1
    """From the network to this machine."""

    def __str__(self) -> str:
        """The direction's name in lower case."""
        return self.name.lower()

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


class Outcome(enum.IntEnum):
    """What became of a verdict: the codes that `set_verdicts` and `Policy.decide` return."""

    APPLIED = 0
    """It decided the packet."""
    UNKNOWN_ID = 1
    """No packet of this id is held, and none is remembered."""
    ALREADY_DECIDED = 2
    """An earlier verdict had decided the packet, and stands."""
    EVICTED = 3
    """The packet had been dropped to make room for newer ones."""
    EXPIRED = 4
    """The packet had reached the hold limit, and policy decided it."""
    ABANDONED = 5
    """The reader that it was asked of had gone, and policy decided it."""
    INVALID_VERDICT = 6
    """The number is no verdict. Arrays are checked before they are sent, so that it is not met."""
    UNDECIDED = 255
    """No verdict was set: a `Policy` left the request to others."""

    def __str__(self) -> str:
        """The outcome's name in lower case."""
        return self.name.lower()

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


class FlowOrigin(enum.IntEnum):
    """Why a flow is cached: the codes of `FlowBatch.origin`; `Flow.origin` has the names."""

    VERDICT = 0
    """A permanent verdict for one of its packets."""
    UPDATE = 1
    """An update of its verdict by 5-tuple."""
    WAY_BACK = 2
    """It carries the answers of a redirected flow."""

    def __str__(self) -> str:
        """The origin's name in lower case."""
        return self.name.lower()

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


class FlowEnd(enum.IntEnum):
    """Why a flow has left the verdict cache: the codes of `FlowEventBatch.end`."""

    IDLE = 0
    """No packet came for too long."""
    CLOSED = 1
    """Its TCP connection was closed, and no packet came for the shorter time after that."""
    EVICTED = 2
    """It made room for another flow."""
    CLEARED = 3
    """The cache was cleared."""
    REPLACED = 4
    """A new verdict for the flow took its place."""

    def __str__(self) -> str:
        """The end's name in lower case."""
        return self.name.lower()

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


class Decision(NamedTuple):
    """A verdict and how long it stands."""

    verdict: Verdict
    """What is to happen."""
    permanent: bool
    """True: for the whole flow. False: for one packet."""

    def __str__(self) -> str:
        return f"{self.verdict} ({'the flow' if self.permanent else 'this packet'})"
