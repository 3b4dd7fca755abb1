"""What a reporter is told while a capture is replayed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

from portmaster_kext._native import Flow, ReplayReport, VerdictRequest
from portmaster_kext.counters import Counters
from portmaster_kext.session import Kext
from portmaster_kext.verdicts import Decision


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A request and what became of it."""

    request: VerdictRequest
    decision: Decision | None
    """The verdict that decided it; None if it was settled before one came."""
    how: str
    """`"applied"`, `"evicted"`, `"expired"` or `"abandoned"`."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """The end of a replay."""

    counters: Counters
    report: ReplayReport
    wall_s: float

    @classmethod
    def of(cls, kext: Kext, wall_s: float) -> Summary:
        """The summary of a session that has been closed."""
        report = kext.replay_report()
        if report is None:
            raise TypeError(f"{kext.device} is no replay")
        return cls(kext.counters(), report, wall_s)


class Reporter(Protocol):
    """Where a replay tells what happens."""

    def request(self, outcome: Outcome) -> None:
        """A request has been decided."""

    def flows(self, flows: Iterator[Flow]) -> None:
        """The cached flows at the end; the session is still open."""

    def summary(self, summary: Summary) -> None:
        """The session is closed."""
