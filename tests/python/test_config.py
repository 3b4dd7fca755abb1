"""The configuration: defaults, ranges, effect."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address

import portmaster_kext as pk
import pytest
from builders import CLIENT, ipv4, syn, udp_datagram
from hosts import both


@both
def test_the_defaults_are_those_of_the_extension(opened):
    assert opened(syn(80)).config == pk.Config()


@both
def test_every_field_goes_there_and_back(opened):
    wanted = pk.Config(
        no_reader=pk.FallbackPolicy.BLOCK,
        unparsable=pk.FallbackPolicy.BLOCK,
        hold_limit=pk.FallbackPolicy.BLOCK,
        fragments=pk.FragmentPolicy.PERMIT,
        infrastructure=pk.Special.ASK,
        broadcast=pk.Special.ASK,
        multicast=pk.Special.ASK,
        fast_track=pk.Special.ASK,
        ask_each_packet=True,
        hold_connects=True,
        loop_limit=255,
        hold_limit_ms=100,
        flow_idle_ms=86_400_000,
        flow_closed_ms=1_000,
        replies_per_second=0,
        redirect_dns=pk.RedirectTarget(5_353, IPv4Address("192.0.2.53")),
        redirect_tunnel=pk.RedirectTarget(1),
    )
    for field in dataclasses.fields(pk.Config):
        assert getattr(wanted, field.name) != getattr(pk.Config(), field.name), field.name
    kext = opened(syn(80))
    kext.config = wanted
    assert kext.config == wanted
    assert opened(syn(80), config=wanted).config == wanted


@both
@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("loop_limit", 0, "1 to 255"),
        ("loop_limit", 256, "loop_limit is 256, and must be a number from 1 to 255"),
        ("hold_limit_ms", "5", "hold_limit_ms is '5', .* 100 to 600000"),
        ("flow_closed_ms", 2**32, "1000 to 86400000"),
        ("hold_limit_ms", 99, "100 to 600000"),
        ("flow_idle_ms", 86_400_001, "86400000"),
        ("replies_per_second", -1, "0 to 1000000"),
        ("redirect_dns", pk.RedirectTarget(0), "1 to 65535"),
        ("redirect_tunnel", pk.RedirectTarget(65_536), r"redirect_tunnel\.port .* 1 to 65535"),
    ],
)
def test_a_value_out_of_range_is_named_and_changes_nothing(opened, field, value, says):
    kext = opened(syn(80))
    wrong = dataclasses.replace(pk.Config(), **{field: value})
    with pytest.raises(pk.ConfigError, match=says) as caught:
        kext.config = wrong
    assert field in str(caught.value) or "port" in str(caught.value)
    assert kext.config == pk.Config()
    with pytest.raises(pk.ConfigError):
        opened(syn(80), config=wrong)


def test_a_policy_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(pk.ConfigError, match=r"FallbackPolicy\.PERMIT, FallbackPolicy\.BLOCK"):
        pk.Config(no_reader=2)  # type: ignore[arg-type]
    with pytest.raises(pk.ConfigError, match=r"FragmentPolicy\.FOLLOW"):
        pk.Config(fragments="follow")  # type: ignore[arg-type]
    with pytest.raises(pk.ConfigError, match=r"redirect_dns is None, .* RedirectTarget"):
        pk.Config(redirect_dns=None)  # type: ignore[arg-type]


def test_something_else_than_a_configuration_is_refused(opened):
    with pytest.raises(TypeError, match="must be a Config"):
        opened(syn(80), config={"loop_limit": 3})
    kext = opened(syn(80))
    with pytest.raises(TypeError, match="must be a Config"):
        kext.config = None


@both
def test_ask_all_asks_for_broadcast_and_multicast(opened):
    packets = [
        ipv4(CLIENT, "255.255.255.255", 17, udp_datagram(1_000, 1_001)),
        ipv4(CLIENT, "224.0.0.251", 17, udp_datagram(5_353, 5_353)),
    ]
    assert [r.accept() for r in opened(*packets)] == []
    kext = opened(*packets, ask_all=True)
    assert len([r.accept() for r in kext]) == 2
    assert kext.config == pk.Config().ask_all()


@both
def test_ask_each_packet(opened):
    kext = opened(syn(80), syn(80), syn(80), config=pk.Config(ask_each_packet=True))
    assert len(list(kext)) == 3


def test_no_reader_decides_what_is_held_at_the_end(opened):
    with opened(syn(80), config=pk.Config(no_reader=pk.FallbackPolicy.BLOCK)) as kext:
        next(kext)
    assert kext.counters()["blocked_no_reader"] == 1


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("flows", 1_023, "flows is 1023, and must be from 1024 to 1048576"),
        ("packets", 65_537, "packets is 65537, and must be from 16 to 65536"),
        ("packet_bytes", 1, "from 131072 to 1073741824"),
        ("flow_packets", 0, "from 1 to 1024"),
        ("fragments", 2**32, "fragments is 4294967296, and must be a number from 16 to 65536"),
        ("packets", "many", "packets is 'many', and must be a number"),
    ],
)
def test_a_capacity_out_of_range_is_named(opened, field, value, says):
    with pytest.raises(pk.ConfigError, match=says):
        opened(syn(80), capacities=pk.Capacities(**{field: value}))


def test_something_else_than_capacities_is_refused(opened):
    with pytest.raises(TypeError, match="must be Capacities"):
        opened(syn(80), capacities=pk.Config())


@pytest.mark.parametrize(
    ("option", "value"),
    [("payload", -1), ("payload", "some"), ("max_requests", 0), ("max_requests", 4_097)],
)
def test_an_option_of_the_iterator_out_of_range_is_named(opened, option, value):
    with pytest.raises(pk.ConfigError, match=f"{option} is {value!r}, and must be"):
        opened(syn(80), **{option: value})


def test_capacities_are_in_force(opened):
    kext = opened(
        *(syn(port) for port in range(1, 41)),
        capacities=pk.Capacities(packets=16, packet_bytes=131_072),
    )
    assert len(list(kext)) == 40
    counters = kext.counters()
    assert (counters.held, counters["dropped_packet_cache_full"]) == (16, 24)
