"""The session: requests, verdicts, payload, counters, closing."""

from __future__ import annotations

import builders
import numpy as np
import portmaster_kext as pk
import pytest
from builders import datagram, request, syn, syn_ack
from hosts import both, passed, shown


@both
def test_requests_come_one_for_each_flow_and_end_with_the_capture(opened):
    kext = opened(syn(80), syn(443), syn_ack(80), syn(23))
    ports = []
    for verdict_request in kext:
        ports.append(verdict_request.remote_port)
        verdict_request.accept()
    assert ports == [80, 443, 23]
    assert list(kext) == [], "the end stays the end"


@both
def test_a_request_tells_what_is_known_of_the_packet(opened):
    kext = opened(syn(80), ipv6 := builders.ipv6("2001:db8::1", "2001:db8::2", 17, b"\0" * 8))
    first, second = (r for r in kext if r.accept() is None)
    assert first.id > 0
    assert first.direction is pk.Direction.OUTBOUND
    assert (first.version, first.protocol) == (4, 6)
    assert str(first.local_address) == builders.CLIENT
    assert str(first.remote_address) == builders.SERVER
    assert (first.local_port, first.remote_port) == (50_000, 80)
    assert first.process_id is None
    assert first.size == len(syn(80))
    assert (first.flags, first.truncated) == (0, False)
    assert first.time == builders.START * 1_000_000_000
    assert first.local_address is first.local_address, "made once"
    assert (second.version, second.size) == (6, len(ipv6))
    assert second.time - first.time == 1_000_000


def test_a_request_is_frozen_and_compares_by_id(opened):
    kext, other = opened(syn(80), syn(81)), opened(syn(80))
    first, second, same = next(kext), next(kext), next(other)
    with pytest.raises(AttributeError):
        first.id = 5
    assert first == first
    assert first != second
    assert first != same, "another session's packet"
    assert first != first.id
    assert len({first, second, first}) == 2
    assert repr(first) == (
        f"<VerdictRequest #{first.id}: outbound TCP 192.0.2.10:50000 -> 198.51.100.20:80, 40 bytes>"
    )


def test_an_ipv6_address_has_brackets_in_the_repr(opened):
    kext = opened(
        builders.ipv6("2001:db8::2", "2001:db8::1", 17, builders.udp_datagram(53, 5_000)),
        local=["2001:db8::1"],
    )
    text = repr(next(kext))
    assert "inbound UDP [2001:db8::1]:5000 <- [2001:db8::2]:53" in text


def test_a_protocol_without_ports_has_none_in_the_repr(opened):
    echo = builders.ipv4(builders.CLIENT, builders.SERVER, 1, b"\x08" + bytes(7))
    kext = opened(echo)
    assert "outbound ICMP 192.0.2.10 -> 198.51.100.20, 28 bytes" in repr(next(kext))


@both
@pytest.mark.parametrize("verdict", list(pk.Verdict))
@pytest.mark.parametrize("permanent", [True, False])
def test_every_verdict_can_be_set(opened, verdict, permanent):
    kext = opened(syn(80), datagram(53))
    for verdict_request in kext:
        kext.set_verdict(verdict_request.id, verdict, permanent)
    counters = kext.counters()
    assert counters.balanced
    assert shown(counters) == 2
    assert counters.held == 0
    assert counters.events["verdict_applied"] == 2


@both
@pytest.mark.parametrize("name", ["accept", "block", "drop", "redirect_dns", "redirect_tunnel"])
def test_a_request_sets_its_own_verdict(opened, name):
    kext = opened(syn(80))
    verdict_request = next(kext)
    getattr(verdict_request, name)(permanent=False)
    with pytest.raises(pk.AlreadyDecidedError) as caught:
        verdict_request.accept()
    assert caught.value.first == (pk.Verdict[name.upper()], False)


@both
def test_a_permanent_verdict_stands_for_the_flow(opened):
    kext = opened(syn(80), syn_ack(80), request(80, b"GET /"), syn(81))
    for verdict_request in kext:
        verdict_request.drop()
    counters = kext.counters()
    assert (counters.requests, counters.dropped) == (2, 4)


@both
def test_a_temporary_verdict_is_for_one_packet(opened):
    kext = opened(syn(80), syn_ack(80), request(80, b"GET /"))
    sizes = [r.size for r in kext if r.drop(permanent=False) is None]
    assert len(sizes) == 3
    assert kext.counters()["dropped_verdict"] == 3


@both
def test_a_second_verdict_names_the_first(opened):
    kext = opened(syn(80))
    verdict_request = next(kext)
    verdict_request.block()
    with pytest.raises(pk.AlreadyDecidedError, match="block") as caught:
        kext.set_verdict(verdict_request.id, pk.Verdict.ACCEPT)
    assert caught.value.id == verdict_request.id
    assert caught.value.first == pk.Decision(pk.Verdict.BLOCK, True)
    assert kext.counters().blocked == 1


@both
@pytest.mark.parametrize("unknown", [0, -1, 12_345, 2**32, 2**64 - 1, 2**64])
def test_an_id_that_was_never_given_is_unknown(opened, unknown):
    kext = opened(syn(80))
    for call in (
        lambda: kext.set_verdict(unknown, pk.Verdict.DROP),
        lambda: kext.get_payload(unknown),
    ):
        with pytest.raises(pk.UnknownIdError, match=str(unknown)) as caught:
            call()
        assert caught.value.id == unknown
        assert isinstance(caught.value, LookupError)


def test_an_id_must_be_an_int(opened):
    with pytest.raises(TypeError, match="str"):
        opened(syn(80)).set_verdict("1", pk.Verdict.ACCEPT)


@pytest.mark.parametrize("wrong", [0, 1, 7, -2, 255, 10**30, "accept", None, 2.0, b"", True])
def test_a_value_that_is_no_verdict_is_refused_with_those_that_are(opened, wrong):
    kext = opened(syn(80))
    verdict_request = next(kext)
    with pytest.raises(pk.InvalidVerdictError) as caught:
        kext.set_verdict(verdict_request.id, wrong)
    assert repr(wrong) in str(caught.value)
    for verdict in pk.Verdict:
        assert f"Verdict.{verdict.name}" in str(caught.value)
    verdict_request.accept()


@both
def test_an_evicted_packet_says_so(opened):
    # One flow each, and one more than the packet cache holds.
    kext = opened(*(datagram(53, source_port=1_000 + n) for n in range(1_200)))
    requests = list(kext)
    first = requests[0]
    with pytest.raises(pk.NotHeldError, match="make room") as caught:
        first.accept()
    assert (caught.value.id, caught.value.reason) == (first.id, "evicted")
    with pytest.raises(pk.NotHeldError):
        kext.get_payload(first.id)
    requests[-1].accept()
    counters = kext.counters()
    assert counters["dropped_packet_cache_full"] == 1_200 - 1_024
    assert counters.balanced


@both
def test_payload_is_the_whole_packet_and_stays_valid(opened):
    packet = datagram(53, b"some data")
    kext = opened(packet)
    verdict_request = next(kext)
    payload = kext.get_payload(verdict_request.id)
    assert payload == packet
    assert kext.get_payload(verdict_request.id) == packet, "it stays held"
    verdict_request.accept()
    assert payload == packet
    with pytest.raises(pk.AlreadyDecidedError):
        kext.get_payload(verdict_request.id)


@both
def test_the_largest_ipv4_packet_is_read_whole(opened):
    packet = datagram(53, bytes(65_535 - 28))
    assert len(packet) == 65_535
    kext = opened(packet)
    verdict_request = next(kext)
    assert verdict_request.size == 65_535
    assert kext.get_payload(verdict_request.id) == packet


@both
def test_verdicts_can_be_set_in_any_order(opened):
    kext = opened(*(syn(port) for port in range(1, 101)))
    for verdict_request in reversed(list(kext)):
        verdict_request.accept()
    assert passed(kext.counters()) == 100


def test_counters_are_a_mapping_by_reason(opened):
    kext = opened(syn(80), syn(81), syn(82))
    next(kext).accept()
    next(kext).drop()
    held = next(kext)
    counters = kext.counters()
    assert (counters.seen, counters.held, counters.requests) == (3, 1, 3)
    assert counters["permitted_verdict"] == counters.permitted == 1
    assert counters["dropped_verdict"] == counters.dropped == 1
    assert sum(counters.values()) + counters.held == counters.seen
    assert counters.balanced
    assert "seen" not in counters, "that is no reason"
    assert counters.events["seen"] == 3
    with pytest.raises(KeyError):
        counters["nonsense"]
    assert "seen 3 = permitted 1 + blocked 0 + dropped 1 + redirected 0 + held 1" in str(counters)
    assert repr(counters).startswith("<Counters seen=3,")
    held.accept()
    assert counters.held == 1, "a snapshot does not move"
    assert counters == counters
    assert counters != kext.counters()
    same = pk.Counters([("permitted_cache", 0, 1), ("seen", 255, 1)])
    assert same == pk.Counters([("permitted_cache", 0, 1), ("seen", 255, 1)])
    assert same != pk.Counters([("permitted_cache", 0, 1), ("seen", 255, 2)])


def test_an_imbalance_would_be_seen():
    counters = pk.Counters([("seen", 255, 3), ("permitted_cache", 0, 1), ("held", 255, 1)])
    assert not counters.balanced
    assert "seen 3 != permitted 1" in str(counters)


def test_what_was_lost_after_it_was_let_go_is_told():
    entries = [("seen", 255, 2), ("permitted_verdict", 0, 2)]
    assert pk.Counters(entries).injections_refused == 0
    assert "lost" not in str(pk.Counters(entries))
    counters = pk.Counters([*entries, ("injections_refused", 255, 1)])
    assert counters.balanced
    assert counters.injections_refused == 1
    assert "lost after they were let go 1" in str(counters)


@both
def test_flows_tell_their_traffic(opened):
    packets = [syn(80), syn_ack(80), request(80, b"GET /")]
    kext = opened(*packets, syn(81))
    for verdict_request in kext:
        verdict_request.accept(permanent=verdict_request.remote_port == 80)
    (flow,) = kext.flows()
    assert (flow.version, flow.protocol) == (4, 6)
    assert (str(flow.local_address), flow.local_port) == (builders.CLIENT, 50_000)
    assert (str(flow.remote_address), flow.remote_port) == (builders.SERVER, 80)
    assert flow.verdict is pk.Verdict.ACCEPT
    assert flow.origin == "verdict"
    assert flow.process_id is None
    assert (flow.packets_out, flow.packets_in) == (2, 1)
    assert flow.bytes_out == len(packets[0]) + len(packets[2])
    assert flow.bytes_in == len(packets[1])
    assert flow.last_seen - flow.first_seen == 2_000_000
    assert (flow.payload_out, flow.payload_in) == (0, 0), "a replay sees packets only"
    assert repr(flow) == (
        "<Flow TCP 192.0.2.10:50000 <-> 198.51.100.20:80: accept, 2 packets out, 1 in>"
    )
    with pytest.raises(AttributeError):
        flow.verdict = pk.Verdict.DROP
    kext.clear_cache()
    assert list(kext.flows()) == []


def test_a_replay_knows_no_paths_of_processes(opened):
    kext = opened(syn(80))
    verdict_request = next(kext)
    assert verdict_request.process_path is None
    for process_id in (0, 4, np.uint64(4), 2**64 - 1, -1, 2**64):
        assert kext.process_path(process_id) is None
    with pytest.raises(TypeError):
        kext.process_path("4")


def test_the_report_says_how_far_and_which_side(opened):
    kext = opened(syn(80), syn(81))
    for verdict_request in kext:
        verdict_request.accept()
    report = kext.replay_report()
    assert (report.records, report.presented, report.not_ip, report.too_short) == (2, 2, 0, 0)
    assert builders.CLIENT in report.local
    assert report.local_inferred is False
    assert report.bytes_read == report.bytes_total
    assert report.last_time - report.first_time == 1_000_000
    assert "2 packets" in repr(report)


@both
def test_leaving_the_block_closes_and_settles(opened):
    with opened(syn(80), syn(81)) as kext:
        next(kext)
        # The iterator takes requests in batches: the second packet is held as well.
        assert kext.counters().held == 2
        assert not kext.closed
    assert kext.closed
    counters = kext.counters()
    assert (shown(counters), counters.held) == (2, 0)
    assert counters.balanced


@both
def test_a_closed_session_refuses_in_words(opened):
    kext = opened(syn(80))
    verdict_request = next(kext)
    kext.close()
    kext.close()
    for call in (
        lambda: iter(kext),
        lambda: verdict_request.accept(),
        lambda: kext.set_verdict(verdict_request.id, pk.Verdict.ACCEPT),
        lambda: kext.get_payload(verdict_request.id),
        lambda: kext.process_path(4),
        lambda: list(kext.flows()),
        lambda: kext.clear_cache(),
        lambda: kext.config,
        lambda: setattr(kext, "config", pk.Config()),
    ):
        with pytest.raises(pk.ClosedError, match="closed"):
            call()
    assert next(kext, None) is None, "a loop that runs ends"
    assert "closed" in repr(kext)


@both
def test_closing_inside_the_loop_ends_it(opened):
    kext = opened(syn(80), syn(81))
    for _ in kext:
        kext.close()
    assert kext.counters().balanced


@both
def test_an_error_in_the_block_closes_too(opened):
    kext = opened(syn(80))
    with pytest.raises(RuntimeError, match="mine"), kext:
        next(kext)
        raise RuntimeError("mine")
    assert kext.closed
