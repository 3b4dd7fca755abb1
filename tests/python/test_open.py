"""Opening: device strings, local networks, captures that are none."""

from __future__ import annotations

import ipaddress
import os
import pickle
import struct
import sys

import builders
import portmaster_kext as pk
import pytest
from builders import ETHERNET, frame, header, record, syn


@pytest.mark.parametrize("device", ["", "replay", "x.pcap", "file:x.pcap", "REPLAY:x", "tcp:1"])
def test_a_string_that_is_no_device_is_told_the_forms(device):
    with pytest.raises(pk.DeviceError) as caught:
        pk.open(device)
    for form in (
        "socket:PATH",
        "replay:FILE",
        "synthetic:COUNT",
        "nfqueue:N",
        r"\\.\PortmasterKext",
    ):
        assert form in str(caught.value)
    assert isinstance(caught.value, pk.Error)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("replay:", "names no file"),
        ("synthetic:", "COUNT from 1 to 4294967295"),
        ("synthetic:0", "COUNT from 1 to 4294967295"),
        ("synthetic:5,payload=65508", "BYTES from 0 to 65507"),
        ("socket:", "names no socket"),
        ("nfqueue:", "0 to 65535"),
        ("nfqueue:65536", "0 to 65535"),
        ("nfqueue:1", "replay:FILE is served"),
        (r"\\.\PortmasterKext", "replay:FILE is served"),
    ],
)
def test_what_is_wrong_with_a_device_is_said(device, says):
    with pytest.raises(pk.DeviceError, match=says):
        pk.open(device)


def test_a_local_network_that_is_none(opened):
    with pytest.raises(ValueError, match="nonsense"):
        opened(syn(80), local=["nonsense"])


@pytest.mark.parametrize(
    ("local", "error", "says"),
    [
        (["fe80::1%eth0"], ValueError, "scope"),
        ([10], TypeError, "10"),
        ([None], TypeError, "None"),
        (["10.0.0.0/8", "10.0.0.0/99"], ValueError, "10.0.0.0/99"),
    ],
)
def test_a_wrong_network_is_named(opened, local, error, says):
    with pytest.raises(error, match=says):
        opened(syn(80), local=local)


def test_a_network_is_not_taken_address_by_address(opened):
    for local in (ipaddress.ip_network("192.0.0.0/8"), ipaddress.ip_address("192.0.2.10")):
        kext = opened(syn(80), local=local)
        next(kext).accept()
        assert str(local) in kext.replay_report().local


def test_local_may_be_one_string_an_address_or_a_network(opened):
    for local in ("192.0.2.0/24", ["192.0.2.10"], ["2001:db8::/32", "192.0.2.99/24"]):
        assert next(opened(syn(80), local=local)).direction is pk.Direction.OUTBOUND
    assert next(opened(syn(80), local=["198.51.100.20"])).direction is pk.Direction.INBOUND


def test_local_is_inferred_and_said(opened):
    kext = opened(syn(80), local=())
    for verdict_request in kext:
        verdict_request.accept()
    assert kext.replay_report().local_inferred


def bad(data: bytes, *says: str, name: str):
    return pytest.param(data, says, id=name)


UNREADABLE = [
    bad(b"", "empty", name="empty"),
    bad(b"This is a text file, and no capture.\n", "not a capture", name="text"),
    bad(header()[:10], "truncated", "header", name="truncated-header"),
    bad(header(147), "147", name="unknown-link-type"),
]

CUT = [
    bad(record(frame(syn(80)))[:10], "truncated", "record 2", name="truncated-record-header"),
    bad(record(frame(syn(80)))[:-5], "truncated", "record 2", name="truncated-record"),
    bad(record(b"", length=262_145) + bytes(262_145), "262145", "record 2", name="record-too-long"),
]


@pytest.mark.parametrize(("data", "says"), UNREADABLE)
def test_a_file_that_is_no_capture_cannot_be_opened(tmp_path, data, says):
    path = tmp_path / "bad.pcap"
    path.write_bytes(data)
    with pytest.raises(pk.CaptureError) as caught:
        pk.open(f"replay:{path}")
    for word in ("bad.pcap", *says):
        assert word in str(caught.value)


@pytest.mark.parametrize(("data", "says"), CUT)
def test_a_capture_is_read_up_to_its_fault(tmp_path, data, says):
    path = tmp_path / "bad.pcap"
    path.write_bytes(header() + record(frame(syn(80))) + data)
    ports = []
    with pk.open(f"replay:{path}", local=[builders.CLIENT]) as kext:
        with pytest.raises(pk.CaptureError) as caught:
            ports.extend(r.remote_port for r in kext if r.accept() is None)
        with pytest.raises(pk.CaptureError):
            next(kext)
    assert ports == [80]
    for word in ("bad.pcap", *says):
        assert word in str(caught.value)
    counters = kext.counters()
    assert (counters.seen, counters.permitted) == (1, 1)
    assert counters.balanced


def test_a_missing_file(tmp_path):
    with pytest.raises(pk.CaptureError, match=r"missing\.pcap"):
        pk.open(f"replay:{tmp_path}/missing.pcap")


def test_a_folder_is_no_capture(tmp_path):
    with pytest.raises(pk.CaptureError):
        pk.open(f"replay:{tmp_path}")


def test_an_output_that_cannot_be_written(opened, tmp_path):
    with pytest.raises(pk.CaptureError, match=r"no-such-folder"):
        opened(syn(80), output=tmp_path / "no-such-folder" / "out.pcapng")


@pytest.mark.parametrize("link", [None, "symlink", "hardlink"])
def test_the_output_never_replaces_the_capture(tmp_path, link):
    path = builders.write(tmp_path, syn(80))
    output = path
    if link is not None:
        output = str(tmp_path / "other.pcapng")
        (os.symlink if link == "symlink" else os.link)(path, output)
    with pytest.raises(pk.CaptureError, match="the capture itself"):
        pk.open(f"replay:{path}", output=output)
    assert len(list(pk.open(f"replay:{path}"))) == 1, "it is as it was"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_a_file_name_need_not_be_utf_8(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.pcap"
    with open(path, "wb") as file:
        file.write(builders.pcap(syn(80)))
    device = f"replay:{os.fsdecode(path)}"
    output = os.fsencode(tmp_path) + b"/\xfe.pcapng"
    with pk.open(device, output=output) as kext:
        assert kext.device == device
        assert len([r.accept() for r in kext]) == 1
    assert os.path.getsize(output) > 0
    with pytest.raises(pk.DeviceError):
        pk.open("\udcff")


LOOP = b"\x3c\x00\x01\x04" + bytes(4)
"""A destination options header whose next header is another one."""

ODD = {
    "zero-length": (b"", "no room for an IP packet in the 14 bytes captured"),
    "one-byte": (b"\x45", "header"),
    "length-beyond-capture": (
        builders.ipv4(
            builders.CLIENT, builders.SERVER, 17, builders.udp_datagram(1, 2), total=1_500
        ),
        "IP length beyond the packet (byte 2 of the packet)",
    ),
    "length-below-header": (
        builders.ipv4(builders.CLIENT, builders.SERVER, 17, b"", total=10),
        "IPv4 total length below 20 bytes (byte 2 of the packet)",
    ),
    "header-length-below-minimum": (
        builders.ipv4(builders.CLIENT, builders.SERVER, 17, builders.udp_datagram(1, 2), ihl=4),
        "header length",
    ),
    "extension-header-loop": (
        builders.ipv6("2001:db8::1", "2001:db8::2", 60, LOOP * 200),
        "extension headers (byte 104 of the packet)",
    ),
    "version-7": (b"\x70" + bytes(39), "IP version 7 (byte 0 of the packet)"),
}


@pytest.mark.parametrize(("packet", "says"), ODD.values(), ids=ODD.keys())
def test_a_packet_that_is_odd_ends_is_counted_and_told(opened, packet, says):
    kext = opened(syn(80), packet, syn(81))
    asked = [r.remote_port for r in kext if r.accept() is None]
    assert asked[0] == 80
    assert asked[-1] == 81
    kext.close()
    counters, report = kext.counters(), kext.replay_report()
    assert counters.balanced
    assert counters.held == 0
    assert report.records == 3
    assert report.presented + report.not_ip + report.too_short == 3
    assert counters.seen == report.presented
    assert counters["permitted_unparsable"] + report.too_short == 1
    [told] = report.first_malformed
    assert report.malformed == 1
    assert told.startswith("record 2 at byte ")
    assert says in told


def test_a_frame_shorter_than_its_header_is_counted_apart(tmp_path):
    path = tmp_path / "short.pcap"
    path.write_bytes(header(ETHERNET) + record(b"\x02" * 9) + record(frame(syn(80))))
    with pk.open(f"replay:{path}", local=[builders.CLIENT]) as kext:
        assert len([r.accept() for r in kext]) == 1
    assert kext.replay_report().too_short == 1


def test_arp_is_not_ip(tmp_path):
    path = tmp_path / "arp.pcap"
    arp = b"\xff" * 6 + b"\x02" * 6 + struct.pack(">H", 0x0806) + bytes(28)
    path.write_bytes(header() + record(arp) + record(frame(syn(80))))
    with pk.open(f"replay:{path}", local=[builders.CLIENT]) as kext:
        assert len([r.accept() for r in kext]) == 1
    assert kext.replay_report().not_ip == 1
    assert kext.counters().seen == 1


@pytest.mark.parametrize(
    "error",
    [
        pk.UnknownIdError("m", 1),
        pk.AlreadyDecidedError("m", 1, 3, True),
        pk.NotHeldError("m", 1, "evicted"),
        pk.ExtensionError("m", 0xC000000D),
        pk.ClosedError("m"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_can_be_pickled(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert again.__dict__ == error.__dict__
    assert str(again) == "m"


def test_every_exception_is_an_error():
    exceptions = [
        value
        for value in vars(pk).values()
        if isinstance(value, type) and issubclass(value, BaseException)
    ]
    assert len(exceptions) > 10
    for exception in exceptions:
        assert issubclass(exception, pk.Error), exception


@pytest.mark.parametrize(
    "arguments",
    [
        {"payload": True},
        {"max_requests": True},
        {"flush_interval": 10**400},
        {"flush_interval": -1},
        {"flush_interval": float("nan")},
    ],
)
def test_what_is_no_such_number_is_a_config_error(arguments):
    with pytest.raises(pk.ConfigError):
        pk.open("synthetic:1", **arguments)


@pytest.mark.parametrize("seconds", [float("inf"), 1e19])
def test_a_flush_interval_may_be_longer_than_clocks_go(seconds):
    with pk.open("synthetic:2", flush_interval=seconds) as kext:
        next(kext).accept()
        kext.flush()
        assert kext.counters().permitted == 1
