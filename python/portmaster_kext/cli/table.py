"""Replay output for people: a table of flows, then the counters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TextIO

from portmaster_kext._native import Flow, VerdictRequest
from portmaster_kext.cli.report import Outcome, Summary

ROWS = 50
"""Flows shown; the ones with the most bytes where there are more."""

_PROTOCOLS = {
    1: "ICMP",
    2: "IGMP",
    6: "TCP",
    17: "UDP",
    33: "DCCP",
    50: "ESP",
    51: "AH",
    58: "ICMPv6",
    132: "SCTP",
    136: "UDP-Lite",
}

_Key = tuple[int, int, str, int, str, int]


@dataclasses.dataclass
class _Row:
    """A flow. Single packets are those that were decided one by one, and so never cached."""

    verdict: str = ""
    packets: int = 0
    size: int = 0
    single_packets: int = 0
    single_size: int = 0


class Table:
    """A `Reporter` that writes tables.

    A flow's packets and bytes come from the verdict cache, with the single packets added. A flow
    that was pushed out of the cache shows only what was asked.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._flows: dict[_Key, _Row] = {}

    def request(self, outcome: Outcome) -> None:
        """Note the flow and its verdict."""
        row = self._flows.setdefault(_key(outcome.request), _Row())
        decision = outcome.decision
        if decision is None:
            row.verdict = outcome.how
        elif decision.permanent:
            row.verdict = str(decision.verdict)
        else:
            row.verdict = f"{decision.verdict} (each)"
        row.packets += 1
        row.size += outcome.request.size
        if decision is None or not decision.permanent:
            row.single_packets += 1
            row.single_size += outcome.request.size

    def flows(self, flows: Iterator[Flow]) -> None:
        """Take the traffic of each cached flow."""
        for flow in flows:
            if flow.origin == "way_back":
                # The other half of a redirected flow, not a flow of its own.
                continue
            row = self._flows.setdefault(_key(flow), _Row())
            row.verdict = str(flow.verdict)
            row.packets = flow.packets_out + flow.packets_in + row.single_packets
            row.size = flow.bytes_out + flow.bytes_in + row.single_size

    def summary(self, summary: Summary) -> None:
        """Write everything."""
        ordered = sorted(self._flows.items(), key=lambda item: (-item[1].size, item[0]))
        rows = [
            (
                _PROTOCOLS.get(protocol, str(protocol)),
                _end(version, local, local_port, protocol),
                _end(version, remote, remote_port, protocol),
                row.verdict,
                f"{row.packets:,}",
                f"{row.size:,}",
            )
            for (version, protocol, local, local_port, remote, remote_port), row in ordered[:ROWS]
        ]
        self._write(("protocol", "local", "remote", "verdict", "packets", "bytes"), rows)
        if len(ordered) > ROWS:
            more = len(ordered) - ROWS
            self._stream.write(f"… and {more:,} smaller flows; --format jsonl lists each request\n")
        report = summary.report
        self._stream.write(
            f"\n{summary.counters}\n"
            f"{report.records:,} packets in the file, {report.not_ip:,} of them not IP"
            f"{f', {report.too_short:,} too short' if report.too_short else ''}\n"
            f"local: {report.local}\n"
            f"{_guessed(report.guessed)}"
            f"took {summary.wall_s:.3f} s\n"
        )

    def _write(self, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for line in (head, *rows):
            words = [
                word.rjust(width) if index >= len(head) - 2 else word.ljust(width)
                for index, (word, width) in enumerate(zip(line, widths, strict=True))
            ]
            self._stream.write("  ".join(words).rstrip() + "\n")


def _guessed(packets: int) -> str:
    """The line about packets of which the addresses do not tell the local end."""
    if not packets:
        return ""
    return f"of {packets:,} packets both ends are local or neither; the lower was taken as local\n"


def _key(flow: Flow | VerdictRequest) -> _Key:
    """A key that sorts: families apart, then by protocol and ends."""
    return (
        flow.version,
        flow.protocol,
        str(flow.local_address),
        flow.local_port,
        str(flow.remote_address),
        flow.remote_port,
    )


def _end(version: int, address: str, port: int, protocol: int) -> str:
    """An address with its port, where the protocol has ports."""
    if not port and protocol not in (6, 17, 33, 132, 136):
        return address
    return f"[{address}]:{port}" if version == 6 else f"{address}:{port}"
