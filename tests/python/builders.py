"""Captures and packets written byte by byte, for tests that need an exact one.

Independent of the code under test and of the dissector that other tests compare it with.
"""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

CLIENT = "192.0.2.10"
SERVER = "198.51.100.20"
START = 1_700_000_000

ETHERNET = 1


def ipv4(source: str, destination: str, protocol: int, body: bytes, **header: int) -> bytes:
    """An IPv4 packet; `total` and `ihl` overrule what is right."""
    total = header.get("total", 20 + len(body))
    first = 0x40 | header.get("ihl", 5)
    fixed = struct.pack(">BBHHHBBH", first, 0, total, 1, 0, 64, protocol, 0)
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return fixed + ends + body


def ipv6(source: str, destination: str, protocol: int, body: bytes) -> bytes:
    fixed = struct.pack(">IHBB", 6 << 28, len(body), protocol, 64)
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return fixed + ends + body


def tcp_segment(source_port: int, port: int, flags: int = 0x02, data: bytes = b"") -> bytes:
    return struct.pack(">HHIIBBHHH", source_port, port, 1, 0, 5 << 4, flags, 1024, 0, 0) + data


def udp_datagram(source_port: int, port: int, data: bytes = b"") -> bytes:
    return struct.pack(">HHHH", source_port, port, 8 + len(data), 0) + data


def syn(port: int, source_port: int = 50_000) -> bytes:
    """The first segment of a connection of the client."""
    return ipv4(CLIENT, SERVER, 6, tcp_segment(source_port, port))


def syn_ack(port: int, source_port: int = 50_000) -> bytes:
    """The server's answer to `syn`."""
    return ipv4(SERVER, CLIENT, 6, tcp_segment(port, source_port, 0x12))


def request(port: int, data: bytes, source_port: int = 50_000) -> bytes:
    """A segment of the client with data."""
    return ipv4(CLIENT, SERVER, 6, tcp_segment(source_port, port, 0x18, data))


def datagram(port: int, data: bytes = b"", source_port: int = 50_000) -> bytes:
    """A UDP packet of the client."""
    return ipv4(CLIENT, SERVER, 17, udp_datagram(source_port, port, data))


def frame(packet: bytes) -> bytes:
    """The packet in an Ethernet frame of its family."""
    kind = 0x86DD if packet[:1] and packet[0] >> 4 == 6 else 0x0800
    return bytes.fromhex("020000000001 020000000002") + struct.pack(">H", kind) + packet


def header(link_type: int = ETHERNET) -> bytes:
    """The header of a pcap file with microseconds."""
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, link_type)


def record(data: bytes, index: int = 0, length: int | None = None) -> bytes:
    """A record, one millisecond after the one before; `length` overrules what is right."""
    length = len(data) if length is None else length
    return struct.pack("<IIII", START, index * 1_000, length, length) + data


def pcap(*packets: bytes) -> bytes:
    """A pcap file of these IP packets over Ethernet."""
    records = (record(frame(packet), index) for index, packet in enumerate(packets))
    return header() + b"".join(records)


def write(folder: Path, *packets: bytes, name: str = "x.pcap") -> str:
    """A file with these packets; its path."""
    path = folder / name
    path.write_bytes(pcap(*packets))
    return str(path)


def slow(folder: Path) -> str:
    """A file of two packets, the second an hour after the first; its path."""
    later = bytearray(record(frame(syn(81))))
    later[:4] = (START + 3_600).to_bytes(4, "little")
    path = folder / "slow.pcap"
    path.write_bytes(header() + record(frame(syn(80))) + later)
    return str(path)
