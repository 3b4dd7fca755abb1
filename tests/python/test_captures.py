"""Every recorded capture: the flows asked for are those that an independent dissector finds.

scapy reads the file and takes the headers apart; what is done here is only to name a flow by its
outermost IP header, both directions alike, to let later fragments go with their first one, and ICMP
errors with the flow that they quote.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

scapy = pytest.importorskip("scapy.all", reason="scapy is the independent dissector")

CAPTURES = sorted(
    path
    for path in (Path(__file__).parents[1] / "captures").iterdir()
    if path.suffix in (".pcap", ".pcapng")
)

WITH_PORTS = {6, 17, 33, 132, 136}
"""TCP, UDP, DCCP, SCTP, UDP-Lite: the two ports are the header's first four bytes."""

ECHOES = {1: {0, 8}, 58: {128, 129}}
"""The ICMP types of echo requests and replies. Their identifier stands for a port."""

ERRORS = {1: {3, 4, 5, 11, 12}, 58: set(range(128))}
"""The ICMP types that quote the packet which they are about (RFC 1122 §3.2.2, RFC 4443 §2.1)."""

AF_INET6 = {10, 24, 28, 30}
"""IPv6 in a loopback header: Linux, NetBSD and OpenBSD, FreeBSD, macOS."""

AH = 51
OTHER_EXTENSIONS = {AH, 135, 139, 140, 43, 60}
"""Extension headers (IANA "IPv6 Extension Header Types") that scapy has no layer of that kind for:
authentication, mobility, host identity, Shim6; and those that may follow them. The first may follow
an IPv4 header too."""

Flow = tuple[int, frozenset[tuple[str, int]]]
"""The protocol, and the two ends: one flow in both directions."""


def flow(protocol: int, one: tuple[str, int], other: tuple[str, int]) -> Flow:
    return protocol, frozenset((one, other))


def ports(protocol: int, data: bytes) -> tuple[int, int] | None:
    """Source and destination port; None where the capture cut them off."""
    if data and data[0] in ECHOES.get(protocol, ()):
        return (int.from_bytes(data[4:6], "big"),) * 2
    if protocol not in WITH_PORTS:
        return 0, 0
    if len(data) < 4:
        return None
    return int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")


def outermost(packet):
    """The first IP layer; None for a packet that is none."""
    for kind in packet.layers():
        if kind in (scapy.IP, scapy.IPv6):
            return packet[kind]
    if isinstance(packet, scapy.Loopback) and packet.type in AF_INET6:
        # scapy knows only the number of the system that it runs on.
        return scapy.IPv6(bytes(packet.payload))
    return None


def walk(ip) -> tuple[int, bytes, bool]:
    """Protocol, the bytes after the IP headers, and whether it names no flow of its own.

    A fragment after the first does not, and neither do hop-by-hop options in another place than the
    first (RFC 8200 §4.1).
    """
    if ip.version == 4:
        if ip.frag > 0:
            return ip.proto, b"", True
        return *skip(ip.proto, rest(ip), {AH}), False
    extensions = (
        scapy.IPv6ExtHdrHopByHop,
        scapy.IPv6ExtHdrRouting,
        scapy.IPv6ExtHdrDestOpt,
        scapy.IPv6ExtHdrFragment,
        scapy.IPv6ExtHdrSegmentRouting,
    )
    layer = ip
    while isinstance(layer.payload, extensions):
        if isinstance(layer.payload, scapy.IPv6ExtHdrHopByHop) and layer is not ip:
            return layer.nh, b"", True
        layer = layer.payload
        if isinstance(layer, scapy.IPv6ExtHdrFragment) and layer.offset > 0:
            return layer.nh, b"", True
    return *skip(layer.nh, rest(layer), OTHER_EXTENSIONS), False


def rest(layer) -> bytes:
    """What follows a layer, as it is in the file."""
    return layer.payload.original or bytes(layer.payload)


def skip(protocol: int, data: bytes, headers: set[int]) -> tuple[int, bytes]:
    """Leaves these headers behind. Lengths: RFC 4302 §2.2 for AH, RFC 6564 §4 for the others."""
    while protocol in headers and len(data) >= 2:
        length = (data[1] + 2) * 4 if protocol == AH else (data[1] + 1) * 8
        protocol, data = data[0], data[length:]
    return protocol, data


def named(ip) -> Flow | None:
    """The flow that a packet's own headers name, if they name one."""
    protocol, data, nameless = walk(ip)
    found = None if nameless else ports(protocol, data)
    return found and flow(protocol, (ip.src, found[0]), (ip.dst, found[1]))


def quoted(ip) -> Flow | None:
    """The flow that an ICMP error is about: the one quoted, if the error goes to its sender."""
    protocol, data, nameless = walk(ip)
    if nameless or not data or data[0] not in ERRORS.get(protocol, ()):
        return None
    about = type(ip)(data[8:])
    return named(about) if about.version == ip.version and about.src == ip.dst else None


def dissect(path: Path) -> set[Flow]:
    """The flows in a capture, by scapy."""
    flows: set[Flow] = set()
    with scapy.PcapReader(str(path)) as packets:
        for packet in packets:
            ip = outermost(packet)
            if ip is None:
                continue
            found = named(ip)
            if found is not None and quoted(ip) not in flows:
                flows.add(found)
    return flows


def replay(run, path: Path, *options: object) -> tuple[list[dict], dict]:
    done = run("replay", path, "--format", "jsonl", *options)
    *requests, summary = map(json.loads, done.stdout.splitlines())
    return requests, summary


@pytest.fixture(params=CAPTURES, ids=lambda path: path.name)
def path(request) -> Path:
    return request.param


def test_the_flows_asked_for_are_those_of_the_dissector(run, path):
    requests, summary = replay(run, path, "--ask-all")
    asked = []
    for r in requests:
        local_port, remote_port = r["local_port"], r["remote_port"]
        if r["protocol"] in ECHOES:
            assert remote_port == 0
            remote_port = local_port
        asked.append(flow(r["protocol"], (r["local"], local_port), (r["remote"], remote_port)))
    assert len(asked) == len(set(asked)), "each flow once"
    assert set(asked) == dissect(path)
    assert summary["requests"] == len(asked)


@pytest.mark.parametrize("default", ["accept", "block", "drop"])
def test_the_counters_balance(run, path, default):
    _, summary = replay(run, path, "--ask-all", "--default", default)
    ends = ("permitted", "blocked", "dropped", "redirected", "held")
    assert summary["seen"] == sum(summary[end] for end in ends)
    assert summary["seen"] == sum(summary["reasons"].values())
    assert summary["held"] == 0
    assert summary["records"] == summary["seen"] + summary["not_ip"] + summary["too_short"]
    assert summary["reasons"].get("dropped_unsettled", 0) == 0


def test_two_runs_are_identical(run, path, tmp_path):
    texts, outputs = [], []
    for number in range(2):
        out = tmp_path / f"{number}.pcapng"
        done = run("replay", path, "--format", "jsonl", "--ask-all", "--output", out)
        texts.append(re.sub(r'"wall_s":[^,]+', "", done.stdout))
        outputs.append(out.read_bytes())
    assert texts[0] == texts[1]
    assert outputs[0] == outputs[1]


def test_without_ask_all_no_more_is_asked(run, path):
    fewer, _ = replay(run, path)
    every, _ = replay(run, path, "--ask-all")
    assert len(fewer) <= len(every)


def test_the_captures_are_there():
    assert CAPTURES, "tests/captures/record.sh records them"
