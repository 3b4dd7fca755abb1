"""Replay output for programs: one JSON object a line.

Two runs on one capture with one policy differ in `wall_s` alone. `time` is in seconds since
1970-01-01 00:00 UTC with all nine decimals of the nanoseconds. That is more than a double holds:
read it with a decimal type (`json.loads(line, parse_float=decimal.Decimal)`) where it matters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TextIO

from portmaster_kext._native import Flow
from portmaster_kext.cli.report import Outcome, Summary

_NANOS = 1_000_000_000

# `json.dumps` with separators of one's own makes an encoder for each call.
_encode = json.JSONEncoder(separators=(",", ":")).encode


class JsonLines:
    """A `Reporter` that writes JSON lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def request(self, outcome: Outcome) -> None:
        """One object; `verdict` and `permanent` are null for a request that none decided."""
        request, decision = outcome.request, outcome.decision
        event: dict[str, object] = {
            "event": "request",
            "id": request.id,
            "time": None,
            "direction": str(request.direction),
            "version": request.version,
            "protocol": request.protocol,
            "local": str(request.local_address),
            "local_port": request.local_port,
            "remote": str(request.remote_address),
            "remote_port": request.remote_port,
            "process_id": request.process_id,
            "size": request.size,
            "verdict": None if decision is None else str(decision.verdict),
            "permanent": None if decision is None else decision.permanent,
        }
        if decision is None:
            event["settled"] = outcome.how
        text = _encode(event)
        # No JSON encoder writes a number of our own digits; the first null is ours.
        self._line(text.replace("null", seconds(request.time), 1))

    def flows(self, flows: Iterator[Flow]) -> None:
        """Nothing: the requests tell the flows."""

    def summary(self, summary: Summary) -> None:
        """The last object. `reasons` holds those that are not zero."""
        counters, report = summary.counters, summary.report
        event = {
            "event": "summary",
            "records": report.records,
            "seen": counters.seen,
            "permitted": counters.permitted,
            "blocked": counters.blocked,
            "dropped": counters.dropped,
            "redirected": counters.redirected,
            "held": counters.held,
            "requests": counters.requests,
            "injected": counters.injected,
            "reasons": {name: value for name, value in counters.items() if value},
            "wall_s": round(summary.wall_s, 6),
            "not_ip": report.not_ip,
            "too_short": report.too_short,
            "malformed": report.malformed,
            "local": report.local,
            "local_inferred": report.local_inferred,
            "local_guessed": report.guessed,
        }
        self._line(_encode(event))

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")


def seconds(nanos: int) -> str:
    """Nanoseconds as a decimal number of seconds, nothing lost."""
    return f"{nanos // _NANOS}.{nanos % _NANOS:09d}"
