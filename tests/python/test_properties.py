"""Properties: what holds for every run, whatever the packets, the verdicts and the file."""

from __future__ import annotations

import tempfile
from decimal import Decimal
from pathlib import Path

import builders
import portmaster_kext as pk
from hosts import Host, Replay, on_driver, shown
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from portmaster_kext.cli.jsonl import seconds

END = {
    pk.Verdict.ACCEPT: "permitted",
    pk.Verdict.BLOCK: "blocked",
    pk.Verdict.DROP: "dropped",
    pk.Verdict.REDIRECT_DNS: "redirected",
    pk.Verdict.REDIRECT_TUNNEL: "redirected",
}

PORTS = st.lists(st.integers(1, 5), max_size=40)
DECISIONS = st.lists(
    st.tuples(st.sampled_from(pk.Verdict), st.booleans()), min_size=40, max_size=40
)


def replayed(data: bytes, host: Host | None = None, **options) -> pk.Kext:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pcap"
        path.write_bytes(data)
        return (host or Replay()).open(f"replay:{path}", local=[builders.CLIENT], **options)


def every_packet_ends_as_decided(host: Host, ports, decisions, **options) -> None:
    """One packet after another, each decided before the next: a dictionary is model enough."""
    expected = dict.fromkeys((*END.values(), "requests"), 0)
    cached: dict[int, pk.Verdict] = {}
    left = iter(decisions)
    for port in ports:
        verdict = cached.get(port)
        if verdict is None:
            verdict, permanent = next(left)
            expected["requests"] += 1
            if permanent:
                cached[port] = verdict
        expected[END[verdict]] += 1

    ids = []
    left = iter(decisions)
    # UDP, whose packets are all alike: in TCP a redirect's way back would come into it.
    packets = (builders.datagram(port, source_port=50_000 + port) for port in ports)
    with replayed(builders.pcap(*packets), host, **options) as kext:
        for request in kext:
            ids.append(request.id)
            kext.set_verdict(request.id, *next(left))
        flows = {
            flow.remote_port: flow.verdict for flow in kext.flows() if flow.origin == "verdict"
        }
    counters = kext.counters()
    expected["permitted"] += counters["permitted_injected"]
    assert {name: getattr(counters, name) for name in expected} == expected
    assert shown(counters) == len(ports)
    assert counters.balanced
    assert ids == sorted(set(ids)), "never used again"
    assert flows == cached


@settings(deadline=None)
@given(ports=PORTS, decisions=DECISIONS)
def test_every_packet_ends_as_decided(ports, decisions):
    every_packet_ends_as_decided(Replay(), ports, decisions)


@on_driver
@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ports=PORTS, decisions=DECISIONS)
def test_every_packet_ends_as_decided_on_the_driver(host, ports, decisions):
    # A network does not wait for a verdict; so that the model need not know it, a read takes one.
    every_packet_ends_as_decided(host, ports, decisions, max_requests=1)
    host.settle()


@settings(deadline=None)
@given(data=st.binary(max_size=200), record=st.booleans())
def test_no_file_does_more_than_fail(data, record):
    """Any bytes as a file, or as a frame in one: an answer, and a balance."""
    file = builders.header() + builders.record(data) if record else data
    try:
        kext = replayed(file)
    except pk.CaptureError:
        assert not record
        return
    with kext:
        try:
            for request in kext:
                assert len(kext.get_payload(request.id)) <= request.size
                request.block()
        except pk.CaptureError:
            assert not record
    assert kext.counters().balanced
    assert kext.counters().held == 0


@given(st.integers(0, 2**64 - 1))
def test_times_are_written_exactly(nanos):
    assert Decimal(seconds(nanos)) * 1_000_000_000 == nanos
