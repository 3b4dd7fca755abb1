"""Verdicts, directions and decisions: the small enumerations of the package.

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


class Decision(NamedTuple):
    """A verdict and how long it stands."""

    verdict: Verdict
    """What is to happen."""
    permanent: bool
    """True: for the whole flow. False: for one packet."""

    def __str__(self) -> str:
        return f"{self.verdict} ({'the flow' if self.permanent else 'this packet'})"
