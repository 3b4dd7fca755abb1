"""IPv4 options and IPv6 extension headers, as far as ordinary sockets can carry them."""

import socket
import struct

from common import EXPERIMENT, IPPROTO_UDPLITE, PADN, option_header, packed
from raw import raw_chains, raw_protocols
from senders import ask, pattern, udp_socket

UDPLITE_SEND_CSCOV = 10
IPV6_HOPOPTS = 54
IPV6_RTHDR = 57
IPV6_DSTOPTS = 59


ROUTER_ALERT = (5, b"\x00\x00")


def srh(first, last):
    """A segment routing header: to `first`, then to `last`."""
    return struct.pack("BBBBBBH", 0, 4, 4, 1, 1, 0, 0) + packed(last) + packed(first)


def cmd_options(args):
    client, server, router = args.client4, args.server4, args.router4
    print("IPv4 options on real sockets")
    sets = {
        "record route": b"\x07\x0f\x04" + bytes(12) + b"\x00",
        "time stamps": b"\x44\x0c\x05\x00" + bytes(8),
        "router alert": b"\x94\x04\x00\x00",
        "no-operations": b"\x01\x01\x01\x00",
        "loose source route": b"\x83\x07\x04" + packed(router) + b"\x00",
        "forty octets": b"\x07\x27\x04" + bytes(36) + b"\x00",
    }
    for name, value in sets.items():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(2)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, value)
            sock.connect((server, 7))
            ask(sock, b"udp with ip options", f"udp, {name}")
    for name in ("router alert", "record route", "loose source route"):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(2)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, sets[name])
            try:
                sock.connect((server, 7))
            except OSError as error:
                print(f"  tcp, {name}: {error}")
                continue
            ask(sock, b"tcp with ip options", f"tcp, {name}")

    print("IPv6 extension headers on real sockets")
    server = args.server6
    hop = (IPV6_HOPOPTS, option_header(PADN))
    alert = (IPV6_HOPOPTS, option_header(ROUTER_ALERT))
    dst = (IPV6_DSTOPTS, option_header(EXPERIMENT))
    long_dst = (IPV6_DSTOPTS, option_header(*[EXPERIMENT] * 6))
    route = (IPV6_RTHDR, srh(args.router6, server))
    chains = {
        "hop-by-hop": [hop],
        "hop-by-hop router alert": [alert],
        "destination": [dst],
        "long destination": [long_dst],
        "routing": [route],
        "hop-by-hop, destination": [hop, dst],
        "hop-by-hop, routing, destination": [hop, route, dst],
    }
    for name, headers in chains.items():
        for kind in ("udp", "tcp", "icmpv6", "udp-lite"):
            if kind == "icmpv6":
                sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
                # Let echo replies alone through (ICMP6_FILTER: a set bit blocks).
                blocks = [0xFFFFFFFF] * 8
                blocks[129 >> 5] &= ~(1 << (129 & 31))
                sock.setsockopt(socket.IPPROTO_ICMPV6, 1, struct.pack("8I", *blocks))
                data = struct.pack("!BBHHH", 128, 0, 0, 0x4321, 1) + pattern(24)
            elif kind == "tcp":
                sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
                data = b"tcp behind extension headers"
            else:
                try:
                    sock = socket.socket(
                        socket.AF_INET6,
                        socket.SOCK_DGRAM,
                        IPPROTO_UDPLITE if kind == "udp-lite" else 0,
                    )
                except OSError as error:
                    print(f"  {kind}: {error}")
                    continue
                data = b"udp behind extension headers"
            with sock:
                sock.settimeout(2)
                try:
                    for option, value in headers:
                        sock.setsockopt(socket.IPPROTO_IPV6, option, value)
                    sock.connect((server, 0 if kind == "icmpv6" else 7))
                except OSError as error:
                    print(f"  {kind}, {name}: {error}")
                    continue
                ask(sock, data, f"{kind}, {name}")

    print("UDP-Lite")
    for address in (args.server4, args.server6):
        for coverage in (0, 8, 12):
            try:
                with udp_socket(address, IPPROTO_UDPLITE) as sock:
                    sock.setsockopt(IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV, coverage)
                    ask(sock, pattern(32), f"udp-lite, coverage {coverage}")
            except OSError as error:
                print(f"  udp-lite: {error}")
    raw_chains(args.client6, args.server6)
    raw_protocols(client, args.server4, args.client6, args.server6)
