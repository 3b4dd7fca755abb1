"""Block DNS queries by name.

    python python/examples/dns_filter.py replay:tests/captures/dns.pcap example.com …

A resolver asks for several names through one port, so a verdict for a flow would let later names
through: each packet to and from port 53 gets a verdict of its own. Everything else is accepted for
good. Only names in UDP are seen: the first packet of a TCP flow, which is what is asked about, has
no data yet. So that none slips through there, DNS over TCP is blocked.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable

import portmaster_kext as pk

TCP, UDP, DNS = 6, 17, 53


def question(packet: memoryview) -> str | None:
    """The name that a DNS query over UDP asks for, in lower case; None if it is no such packet.

    Nothing of it can be trusted: it is any bytes that somebody sent to port 53.
    """
    data = bytes(packet)
    if not data:
        return None
    # Of IPv6 those without extension headers.
    start = 40 if data[0] >> 4 == 6 else 4 * (data[0] & 15)
    message = data[start + 8 :]
    is_query = len(message) > 12 and message[2] & 0x80 == 0 and message[4:6] == b"\0\1"
    if not is_query:
        return None
    labels: list[str] = []
    at = 12
    # Bound: a name has at most 127 labels (RFC 1035 §3.1), and each has a length of its own.
    while at < len(message) and (length := message[at]) != 0:
        if length > 63 or at + length >= len(message) or len(labels) > 127:
            return None
        labels.append(message[at + 1 : at + 1 + length].decode("ascii", "replace").lower())
        at += 1 + length
    return ".".join(labels) if at < len(message) else None


def is_blocked(name: str, domains: Iterable[str]) -> bool:
    """Whether it is one of the domains, or below one."""
    return any(name == domain or name.endswith(f".{domain}") for domain in domains)


def decide(request: pk.VerdictRequest, domains: set[str], names: Counter[tuple[str, str]]) -> None:
    """Decide one request, and count the name by what became of it."""
    if request.remote_port != DNS or request.protocol not in (TCP, UDP):
        request.accept()
    elif request.protocol == TCP:
        request.block()
    else:
        payload = request.payload
        name = None if payload is None else question(payload)
        blocked = name is not None and is_blocked(name, domains)
        if blocked:
            # Not dropped: with an ICMP message the resolver fails at once, and tries no longer.
            request.block(permanent=False)
        else:
            request.accept(permanent=False)
        if name is not None:
            names[name, "block" if blocked else "accept"] += 1


def main(arguments: list[str]) -> None:
    """Filter the queries of a device until it ends."""
    device, *domains = arguments
    names: Counter[tuple[str, str]] = Counter()
    lower = {domain.lower().rstrip(".") for domain in domains}
    # A question and the headers before it are shorter than this.
    with pk.open(device, payload=512) as kext:
        for request in kext:
            decide(request, lower, names)
    for (name, verdict), count in sorted(names.items()):
        print(f"{verdict:<6} {count:>4} {name}")
    print(kext.counters())


if __name__ == "__main__":
    main(sys.argv[1:])
