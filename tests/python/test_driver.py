"""The driver itself, in a simulated kernel: whom it outlives, and that its faults fail a test."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import builders
import hosts
import portmaster_kext as pk
import pytest
from builders import CLIENT, SERVER, ipv4, ipv6, syn, tcp_segment, udp_datagram
from hosts import Host, Replay, on_driver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = on_driver

LOST = 0xC000_009D
"""STATUS_DEVICE_NOT_CONNECTED"""


def test_the_driver_is_the_host(host, opened):
    with opened(syn(80), syn(81)) as kext:
        for request in kext:
            request.accept()
        assert kext.replay_report() is None
    (counted,) = host.settle()
    assert counted == {
        "seen": 4,
        "permitted_verdict": 2,
        "permitted_injected": 2,
        "requests": 2,
        "verdict_applied": 2,
        "flow_cached": 2,
    }


def test_a_machine_that_nobody_came_to_is_left_clean(host):
    host.device("synthetic:10")
    assert host.settle() == [{}]


KILLED = """
import sys, time
import portmaster_kext as pk
kext = pk.open(sys.argv[1], realtime=True)
first = next(kext)
print("has one", flush=True)
next(kext)
"""


@pytest.mark.parametrize("later", [False, True], ids=["at_once", "while_a_read_waits"])
def test_what_a_killed_program_held_is_settled(host, tmp_path, later):
    device = host.device(f"replay:{builders.slow(tmp_path)}", realtime=True)
    command = [sys.executable, "-c", KILLED, device]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "has one\n"
        if later:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    (counted,) = host.settle()
    assert counted["permitted_no_reader"] == 1


def test_a_device_has_one_owner(host):
    device = host.device("synthetic:10")
    with pk.open(device), pytest.raises(pk.DeviceError, match="start the process"):
        pk.open(device)


def test_a_read_that_waits_blocks_no_verdict(host, tmp_path):
    kext = host.open(f"replay:{builders.slow(tmp_path)}", realtime=True, flush_interval=0)
    first = next(kext)
    reader = threading.Thread(target=lambda: next(kext, None))
    reader.start()
    time.sleep(0.05)
    begun = time.monotonic()
    first.drop()
    assert kext.counters().dropped == 1
    assert [flow.verdict for flow in kext.flows()] == [pk.Verdict.DROP]
    assert time.monotonic() - begun < 1
    assert reader.is_alive()
    kext.close()
    reader.join(5)
    assert not reader.is_alive()


def test_a_machine_that_stops_is_told_by_each_call(host):
    machine = hosts.Driver()
    kext = machine.open("synthetic:10", flush_interval=0)
    request = next(kext)
    machine.kill()
    for call in (
        lambda: request.accept(),
        lambda: kext.get_payload(request.id),
        lambda: kext.counters(),
        lambda: kext.close(),
    ):
        with pytest.raises(pk.ExtensionError, match="the device is lost") as caught:
            call()
        assert caught.value.status == LOST
    with pytest.raises(pytest.fail.Exception, match="status -9"):
        machine.end()


def test_a_driver_that_breaks_a_rule_fails_the_test(host):
    machine = hosts.Driver("NtsimBroken64.sys", "--defect", "DeviceLeft")
    device = machine.device("synthetic:10")
    # It knows none of our requests; what it leaves behind is found when it is unloaded.
    with pytest.raises(pk.ProtocolMismatchError):
        pk.open(device)
    with pytest.raises(pytest.fail.Exception, match="violation: leak") as caught:
        machine.end()
    assert r"the device \Device\PortmasterKext is there" in str(caught.value)


def test_a_driver_that_does_not_load_fails_the_test(host):
    machine = hosts.Driver("NtsimBroken64.sys", "--defect", "DeviceLeftByFailedEntry")
    with pytest.raises(pytest.fail.Exception, match="violation: leak"):
        machine.device("synthetic:10")
    machine.end()


PORTS = st.integers(1, 4)
BODIES = st.one_of(
    st.builds(tcp_segment, PORTS, PORTS, st.sampled_from([0x02, 0x12, 0x10, 0x11, 0x04])),
    st.builds(udp_datagram, PORTS, PORTS, st.binary(max_size=20)),
    # Echoes, and an ICMP error that quotes nothing.
    st.sampled_from([b"\x08\0\0\0\0\x01\0\x01", b"\0\0\0\0\0\x01\0\x01", b"\x03\x03" + bytes(6)]),
    st.binary(max_size=30),
)
ENDS = st.sampled_from([(CLIENT, SERVER), (SERVER, CLIENT), (CLIENT, "224.0.0.251")])
ENDS_V6 = st.sampled_from([("2001:db8::1", "2001:db8::2"), ("2001:db8::2", "2001:db8::1")])
PROTOCOLS = st.sampled_from([1, 6, 17, 47, 58])


def fragment(packet: bytes, offset: int, more: bool) -> bytes:
    """The IPv4 packet, as if it were this fragment of another."""
    return packet[:6] + (offset | more << 13).to_bytes(2, "big") + packet[8:]


V4 = st.builds(lambda ends, protocol, body: ipv4(*ends, protocol, body), ENDS, PROTOCOLS, BODIES)
V6 = st.builds(lambda ends, protocol, body: ipv6(*ends, protocol, body), ENDS_V6, PROTOCOLS, BODIES)
FRAGMENTS = st.builds(fragment, V4, st.integers(0, 4), st.booleans())
# Headers that say more, or less, than is there.
WRONG = st.builds(
    lambda body, **wrong: ipv4(CLIENT, SERVER, 17, body, **wrong),
    BODIES,
    total=st.integers(0, 60),
    ihl=st.integers(0, 15),
)
PACKETS = st.lists(st.one_of(V4, V4, V6, FRAGMENTS, WRONG), max_size=30)


def told(request: pk.VerdictRequest) -> tuple:
    flow = (request.local_address, request.local_port, request.remote_address, request.remote_port)
    where = (request.direction, request.interface, request.sub_interface, request.compartment)
    payload = bytes(request.payload or b"")
    return (request.time, request.protocol, *flow, *where, request.size, payload)


def decided(request: pk.VerdictRequest) -> tuple[pk.Verdict, bool]:
    """A verdict that depends on the flow only."""
    number = request.protocol + request.local_port + request.remote_port
    return list(pk.Verdict)[number % 5], number % 3 != 0


def outcome(host: Host, packets: list[bytes]) -> tuple[list[tuple], dict[str, int]]:
    """What was asked about and counted; each is decided before the next comes."""
    with tempfile.TemporaryDirectory() as folder:
        path = builders.write(Path(folder), *packets)
        kext = host.open(
            f"replay:{path}", local=[CLIENT, "2001:db8::1"], payload="all", max_requests=1
        )
        with kext:
            asked = []
            for request in kext:
                asked.append(told(request))
                kext.set_verdict(request.id, *decided(request))
    counters = kext.counters()
    machines = host.settle()
    if machines:
        (counted,) = machines
        counted["seen"] = counted.get("seen", 0) - counted.pop("permitted_injected", 0)
    else:
        counted = {**counters, **counters.events}
    return asked, {name: value for name, value in counted.items() if value}


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(packets=PACKETS)
def test_the_driver_does_what_the_replay_does(host, packets):
    assert outcome(host, packets) == outcome(Replay(), packets)
