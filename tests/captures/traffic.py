#!/usr/bin/env python3
"""Traffic helpers for record.sh: the small servers, senders and wires it needs.

Only the standard library is used.  Everything here is meant to run inside the
network namespaces that record.sh makes; run `traffic.py --help` for the list.

Ordinary traffic is made with ordinary sockets, so that the kernel builds and
answers the packets.  Raw sockets are used only for what no kernel socket can
send (SCTP and DCCP on kernels without them, odd IPv6 extension-header chains,
unusual protocol numbers).
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import select
import socket
import struct
import sys
import threading
import time

IPPROTO_UDPLITE = 136
IPPROTO_SCTP = 132
IPPROTO_DCCP = 33
UDPLITE_SEND_CSCOV = 10
UDPLITE_RECV_CSCOV = 11
IPV6_HOPOPTS = 54
IPV6_RTHDR = 57
IPV6_DSTOPTS = 59
SOL_PACKET = 263
PACKET_AUXDATA = 8
PACKET_OUTGOING = 4
ETH_P_ALL = 3


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def packed(address):
    return socket.inet_pton(family_of(address), address)


# --------------------------------------------------------------------------
# serve: the small servers
# --------------------------------------------------------------------------


def udp_server(address, port, echo, proto=0):
    sock = socket.socket(family_of(address), socket.SOCK_DGRAM, proto)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    if ":" in address:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    while True:
        data, peer = sock.recvfrom(65535)
        if echo:
            sock.sendto(data, peer)


def tcp_server(address, port, session):
    sock = socket.socket(family_of(address), socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in address:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    sock.listen(64)
    while True:
        conn, _ = sock.accept()
        threading.Thread(target=guarded, args=(session, conn), daemon=True).start()


def guarded(session, conn):
    try:
        with conn:
            conn.settimeout(10)
            session(conn)
    except OSError:
        pass


def telnet_session(conn):
    """Option negotiation, a banner, one log-in attempt, refused."""
    conn.sendall(b"\xff\xfd\x18\xff\xfb\x03")  # DO TERMINAL-TYPE, WILL SGA
    conn.sendall(b"test.example.test: no entry\r\nlogin: ")
    seen = b""
    while b"guest" not in seen or not seen.endswith(b"\n"):
        piece = conn.recv(256)
        if not piece:
            return
        seen += piece
    conn.sendall(b"Login incorrect\r\n")


def echo_session(conn):
    while piece := conn.recv(4096):
        conn.sendall(piece)


def http_session(conn):
    """One answer per request until the other side closes (for lo only)."""
    pending = b""
    while True:
        while b"\r\n\r\n" not in pending:
            piece = conn.recv(4096)
            if not piece:
                return
            pending += piece
        pending = pending.split(b"\r\n\r\n", 1)[1]
        body = b"a small page from the loopback server\n" * 8
        conn.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )


def cmd_serve(args):
    jobs = []
    for address in args.addresses:
        if args.http:
            jobs.append((tcp_server, address, 80, http_session))
        jobs.append((tcp_server, address, 23, telnet_session))
        jobs.append((tcp_server, address, 7, echo_session))
        jobs.append((udp_server, address, 7, True))
        jobs.append((udp_server, address, 9, False))
        try:
            socket.socket(family_of(address), socket.SOCK_DGRAM, IPPROTO_UDPLITE).close()
            jobs.append((udp_server, address, 7, True, IPPROTO_UDPLITE))
        except OSError:
            print("this kernel has no UDP-Lite", file=sys.stderr)
    for job, *rest in jobs:
        threading.Thread(target=job, args=rest, daemon=True).start()
    threading.Event().wait()


# --------------------------------------------------------------------------
# ordinary senders
# --------------------------------------------------------------------------


def udp_socket(address, proto=0):
    sock = socket.socket(family_of(address), socket.SOCK_DGRAM, proto)
    sock.settimeout(3)
    sock.connect((address, 7))
    return sock


def ask(sock, data, what):
    """Send and wait for the echo; say so when none comes (some are meant to)."""
    try:
        sock.send(data)
        sock.recv(65535)
        print(f"  {what}: answered")
    except OSError as error:
        print(f"  {what}: {error}")


def pattern(length, seed=0):
    return bytes((seed + i) & 0xFF for i in range(length))


def cmd_echo(args):
    """UDP datagrams to the echo port, each waited for."""
    for size in args.sizes:
        with udp_socket(args.address) as sock:
            ask(sock, pattern(size), f"{size} octets to {args.address}")


def cmd_flood_echo(args):
    """Several datagrams without waiting, then gather the echoes."""
    with udp_socket(args.address) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for index in range(args.count):
            sock.send(pattern(args.size, index))
        got = 0
        try:
            while got < args.count:
                sock.recv(65535)
                got += 1
        except OSError:
            pass
        print(f"  {got} of {args.count} echoes from {args.address}")


def cmd_burst(args):
    """Back-to-back UDP in several flows to the discard port."""
    socks = []
    for address in args.addresses:
        for _ in range(args.flows):
            sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
            sock.connect((address, 9))
            socks.append(sock)
    data = pattern(args.size)
    sent = 0
    # Runs of 50 from each flow in turn: bursts within a flow, flows mixed.
    for _ in range(args.count // 50):
        for sock in socks:
            for _ in range(50):
                sock.send(data)
                sent += 1
        time.sleep(0.002)
    print(f"  {sent} datagrams in {len(socks)} flows")


def cmd_keepalive(args):
    """Several HTTP/1.1 requests on one connection, waiting for each answer."""
    with socket.create_connection((args.address, args.port), timeout=5) as conn:
        for index in range(args.count):
            conn.sendall(
                f"GET /page{index} HTTP/1.1\r\n"
                f"Host: {args.host}\r\n"
                f"User-Agent: captures\r\n\r\n".encode()
            )
            data = b""
            while b"\r\n\r\n" not in data:
                data += conn.recv(4096)
            head, body = data.split(b"\r\n\r\n", 1)
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            while len(body) < length:
                body += conn.recv(4096)
            time.sleep(0.05)
    print(f"  {args.count} requests on one connection to {args.address}")


def cmd_abort(args):
    """A connection the client aborts (linger 0: RST in place of FIN)."""
    conn = socket.create_connection((args.address, args.port), timeout=5)
    conn.sendall(b"GET / HTTP/1.1\r\n")
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def cmd_multicast(args):
    """Broadcast and multicast UDP, IPv4 and IPv6, from this namespace."""
    dns = struct.pack("!6H", 0, 0, 1, 0, 0, 0)
    dns += b"\x05_http\x04_tcp\x05local\x00" + struct.pack("!2H", 12, 1)
    ssdp = (
        b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n"
        b'MAN: "ssdp:discover"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n'
    )
    index = socket.if_nametoindex(args.interface)

    v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    v4.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    v4.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, args.interface.encode())
    v4.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    joined = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for group in ("224.0.0.251", "239.255.255.250"):
        joined.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            struct.pack("=4s4si", packed(group), bytes(4), index),
        )
    for _ in range(3):
        v4.sendto(dns, ("224.0.0.251", 5353))
        v4.sendto(ssdp, ("239.255.255.250", 1900))
        v4.sendto(b"limited broadcast", ("255.255.255.255", 4000))
        v4.sendto(b"directed broadcast", (args.broadcast, 4001))
        time.sleep(0.1)

    v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    v6.sendto(dns, ("ff02::fb", 5353, 0, index))
    v6.sendto(ssdp, ("ff02::c", 1900, 0, index))
    time.sleep(1.5)  # long enough for the IGMP and MLD reports
    joined.close()  # and the reports of leaving
    time.sleep(0.5)


# --------------------------------------------------------------------------
# options: what ordinary sockets can carry
# --------------------------------------------------------------------------


def option_header(*options):
    """A hop-by-hop or destination options header padded to eight octets.

    The first octet (next header) is filled in by the kernel or by chain().
    """
    body = b"".join(struct.pack("BB", kind, len(data)) + data for kind, data in options)
    short = -(2 + len(body)) % 8
    if short == 1:
        body += b"\x00"
    elif short > 1:
        body += struct.pack("BB", 1, short - 2) + bytes(short - 2)
    return bytes([0, (2 + len(body)) // 8 - 1]) + body


ROUTER_ALERT = (5, b"\x00\x00")
EXPERIMENT = (0x1E, b"captures")  # RFC 4727 experiment: skip when not known
PADN = (1, bytes(4))


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


# --------------------------------------------------------------------------
# options: what has to be built by hand
# --------------------------------------------------------------------------


def checksum(data):
    if len(data) % 2:
        data += b"\x00"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def transport_sum(source, target, proto, segment):
    if ":" in source:
        head = packed(source) + packed(target) + struct.pack("!II", len(segment), proto)
    else:
        head = packed(source) + packed(target) + struct.pack("!HH", proto, len(segment))
    return checksum(head + segment)


def udp_segment(source, target, port, data):
    head = struct.pack("!HHHH", port, 7, 8 + len(data), 0)
    value = transport_sum(source, target, 17, head + data) or 0xFFFF
    return head[:6] + struct.pack("!H", value) + data


def chain(headers, last, payload):
    """Join (protocol number, header) pairs, setting each next-header octet."""
    kinds = [kind for kind, _ in headers] + [last]
    out = b""
    for index, (_, header) in enumerate(headers):
        out += bytes([kinds[index + 1]]) + header[1:]
    return kinds[0], out + payload


def raw_chains(client, server):
    """IPv6 extension-header chains that no kernel socket can send."""
    print("IPv6 chains built by hand (answers come from the kernel)")
    hop = (0, option_header(PADN))
    dst = (60, option_header(EXPERIMENT))
    unknown = (60, option_header((0xC3, b"????")))  # unknown: discard and report
    rh0_done = (43, struct.pack("BBBBI", 0, 2, 0, 0, 0) + packed(client))
    rh0_live = (43, struct.pack("BBBBI", 0, 2, 0, 1, 0) + packed(client))
    atomic = (44, struct.pack("!BBHI", 0, 0, 0, 0x0A0B0C0D))
    auth = (51, struct.pack("!BBHII", 0, 4, 0, 0x100, 1) + bytes(12))
    raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def send(first, body):
        head = struct.pack("!IHBB", 0x60000000, len(body), first, 64)
        raw.sendto(head + packed(client) + packed(server) + body, (server, 0))
        time.sleep(0.03)

    chains = {
        "hop-by-hop, destination, routing 0 (none left), destination": [hop, dst, rh0_done, dst],
        "routing 0 with a segment left (refused)": [rh0_live],
        "atomic fragment": [atomic],
        "destination, atomic fragment, destination": [dst, atomic, dst],
        "hop-by-hop, atomic fragment": [hop, atomic],
        "destination twice": [dst, dst],
        "sixteen destination headers": [dst] * 16,
        "hop-by-hop after destination (out of place)": [dst, hop],
        "unknown destination option (reported)": [unknown],
        "authentication": [auth],
        "hop-by-hop, authentication, destination": [hop, auth, dst],
    }
    for number, (name, headers) in enumerate(chains.items()):
        # A real UDP socket holds the port, so that the answer is not refused.
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.2)
            sock.bind((client, 42000 + number))
            segment = udp_segment(client, server, 42000 + number, b"behind a chain")
            send(*chain(headers, 17, segment))
            try:
                sock.recv(2048)
                print(f"  {name}: answered")
            except OSError as error:
                print(f"  {name}: {error}")
    # A first fragment that ends before the transport header (RFC 7112), and
    # its second half.
    whole = chain([dst], 17, udp_segment(client, server, 42100, pattern(40)))[1]
    for offset, part, more in ((0, whole[:16], 1), (16, whole[16:], 0)):
        fragment = struct.pack("!BBHI", 60, 0, offset | more, 0x01020304)
        send(44, fragment + part)
    # Chains that end without UDP or TCP.
    send(*chain([dst], 59, b""))  # no next header
    send(59, b"")
    send(50, struct.pack("!II", 0x200, 1) + bytes(24))  # ESP
    send(*chain([hop, dst], 50, struct.pack("!II", 0x200, 2) + bytes(24)))
    send(*chain([dst], 135, struct.pack("!BBBBHH", 59, 0, 0, 0, 0, 0)))  # mobility
    send(*chain([dst], 253, b"experiment"))


def crc32c(data):
    value = 0xFFFFFFFF
    for octet in data:
        value ^= octet
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def sctp_packet(source, target, tag, *chunks):
    body = b""
    for kind, flags, value in chunks:
        body += struct.pack("!BBH", kind, flags, 4 + len(value)) + value
        body += bytes(-len(body) % 4)
    head = struct.pack("!HHI", source, target, tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + body)) + body


def sctp_chunks(packet):
    at = 12
    while at + 4 <= len(packet):
        kind, flags, length = struct.unpack_from("!BBH", packet, at)
        yield kind, flags, packet[at + 4 : at + length]
        at += (length + 3) // 4 * 4


def dccp_packet(source, target, ports, kind, seq, ack=None, service=None, data=b""):
    tail = b""
    if ack is not None:
        tail += bytes(2) + ack.to_bytes(6, "big")
    if service is not None:
        tail += service
    words = (16 + len(tail)) // 4

    def build(value):
        return (
            struct.pack("!HHBBHBB", *ports, words, 0, value, kind << 1 | 1, 0)
            + seq.to_bytes(6, "big")
            + tail
            + data
        )

    return build(transport_sum(source, target, IPPROTO_DCCP, build(0)))


def raw_receive(sock):
    data, peer = sock.recvfrom(65535)
    if sock.family == socket.AF_INET:  # an IPv4 raw socket hands over the header
        data = data[(data[0] & 15) * 4 :]
    return data, peer[0]


def raw_socket(address, proto):
    sock = socket.socket(family_of(address), socket.SOCK_RAW, proto)
    sock.settimeout(2)
    sock.bind((address, 0))
    return sock


def cmd_raw_peers(args):
    """Enough of an SCTP and a DCCP server to answer raw_protocols()."""

    def sctp(address):
        sock = raw_socket(address, IPPROTO_SCTP)
        sock.settimeout(None)
        peer_tag = 0
        while True:
            packet, peer = raw_receive(sock)
            source, target = struct.unpack_from("!HH", packet)
            for kind, _, value in sctp_chunks(packet):
                tag = peer_tag
                if kind == 1:  # INIT: INIT ACK with a state cookie
                    tag = peer_tag = struct.unpack_from("!I", value)[0]
                    cookie = struct.pack("!HH", 7, 20) + b"not-a-real-cookie"[:16]
                    reply = (2, 0, struct.pack("!IIHHI", 0x5E5E5E5E, 65536, 4, 4, 700) + cookie)
                elif kind == 10:  # COOKIE ECHO: COOKIE ACK
                    reply = (11, 0, b"")
                elif kind == 0:  # DATA: SACK
                    reply = (3, 0, value[:4] + struct.pack("!IHH", 65536, 0, 0))
                elif kind == 4:  # HEARTBEAT: HEARTBEAT ACK
                    reply = (5, 0, value)
                elif kind == 7:  # SHUTDOWN: SHUTDOWN ACK
                    reply = (8, 0, b"")
                else:
                    continue
                sock.sendto(sctp_packet(target, source, tag, reply), (peer, 0))

    def dccp(address):
        sock = raw_socket(address, IPPROTO_DCCP)
        sock.settimeout(None)
        mine = 9000
        while True:
            packet, peer = raw_receive(sock)
            source, target = struct.unpack_from("!HH", packet)
            kind = packet[8] >> 1 & 15
            seq = int.from_bytes(packet[10:16], "big")
            reply = {
                0: (1, b"capt"),  # Request: Response
                4: (3, None),  # DataAck: Ack
                6: (7, b"\x01\0\0\0"),
            }.get(kind)  # Close: Reset (closed)
            if reply:
                mine += 1
                sock.sendto(
                    dccp_packet(address, peer, (target, source), reply[0], mine, seq, reply[1]),
                    (peer, 0),
                )

    for address in args.addresses:
        for job in (sctp, dccp):
            threading.Thread(target=job, args=(address,), daemon=True).start()
    threading.Event().wait()


def raw_protocols(client4, server4, client6, server6):
    for client, server in ((client4, server4), (client6, server6)):
        print(f"SCTP, DCCP and other protocols built by hand, to {server}")
        sock = raw_socket(client, IPPROTO_SCTP)
        ports, tag = (40132, 5000), 0
        steps = [
            ("init", (1, 0, struct.pack("!IIHHI", 0xC1C1C1C1, 65536, 4, 4, 100))),
            ("cookie echo", (10, 0, b"not-a-real-cookie"[:16])),
            ("data", (0, 3, struct.pack("!IHHI", 100, 0, 0, 0) + b"sctp data")),
            ("heartbeat", (4, 0, struct.pack("!HH", 1, 12) + b"beatbeat")),
            ("shutdown", (7, 0, struct.pack("!I", 699))),
        ]
        for name, chunk in steps:
            sock.sendto(sctp_packet(*ports, tag, chunk), (server, 0))
            try:
                packet, _ = raw_receive(sock)
                kind, _, value = next(sctp_chunks(packet))
                if kind == 2:
                    tag = struct.unpack_from("!I", value)[0]
                print(f"  sctp {name}: answered by chunk {kind}")
            except OSError as error:
                print(f"  sctp {name}: {error}")
        sock.sendto(sctp_packet(*ports, tag, (14, 0, b"")), (server, 0))
        sock.close()

        sock = raw_socket(client, IPPROTO_DCCP)
        ports, seq, ack = (40033, 5001), 500, None
        for kind, service, data in (
            (0, b"capt", b""),
            (3, None, b""),
            (4, None, b"dccp data"),
            (6, None, b""),
        ):
            seq += 1
            sock.sendto(
                dccp_packet(client, server, ports, kind, seq, ack, service, data), (server, 0)
            )
            if kind == 3:
                continue
            try:
                packet, _ = raw_receive(sock)
                ack = int.from_bytes(packet[10:16], "big")
                print(f"  dccp {kind}: answered by type {packet[8] >> 1 & 15}")
            except OSError as error:
                print(f"  dccp {kind}: {error}")
        sock.close()

        # Protocols the server does not speak: its kernel says so by ICMP.
        for proto, data in (
            (47, struct.pack("!HH", 0, 0x0800) + bytes(20)),  # GRE
            (50, struct.pack("!II", 0x300, 1) + bytes(24)),  # ESP
            (51, struct.pack("!BBHII", 59, 4, 0, 0x300, 1) + bytes(12)),  # AH
            # OSPF hello
            (89, struct.pack("!BBHIIHHII", 2, 1, 44, 0, 0, 0, 0, 0, 0) + bytes(20)),
            (103, struct.pack("!BBH", 0x20, 0, 0xDFFF)),  # PIM
            (253, b"experiment"),
        ):
            with raw_socket(client, proto) as sock:
                sock.sendto(data, (server, 0))
                time.sleep(0.02)


# --------------------------------------------------------------------------
# wires: a VLAN port and a tunnel in user space
# --------------------------------------------------------------------------

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_TAP, IFF_NO_PI = 1, 2, 0x1000


def open_tun(name, mode):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), mode | IFF_NO_PI))
    return fd


def cmd_vlan_port(args):
    """VLAN interfaces as TAP devices over one parent device.

    Each --vlan NAME=TPID:VID:PCP[,TPID:VID:PCP] makes a TAP device; a frame
    the kernel sends on it goes out on the parent with those tags (outermost
    first), and a frame that comes in with them is handed to it without.
    This is what the kernel's own VLAN devices do, for a kernel without them.
    """
    ports = {}
    for text in args.vlan:
        name, tags = text.split("=")
        stack = []
        for tag in tags.split(","):
            tpid, vid, pcp = tag.split(":")
            stack.append((int(tpid, 16), int(vid), int(pcp)))
        ports[tuple((tpid, vid) for tpid, vid, _ in stack)] = (
            open_tun(name, IFF_TAP),
            b"".join(struct.pack("!HH", tpid, pcp << 13 | vid) for tpid, vid, pcp in stack),
        )
    parent = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    parent.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    parent.bind((args.parent, ETH_P_ALL))
    taps = dict(ports.values())
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([parent, *taps], [], [])
        for one in ready:
            if one is not parent:
                frame = os.read(one, 65535)
                parent.send(frame[:12] + taps[one] + frame[12:])
                continue
            frame, extra, _, origin = parent.recvmsg(65535, 256)
            if origin[2] == PACKET_OUTGOING:
                continue
            # The kernel takes the outermost tag off and tells it on the side.
            for level, kind, value in extra:
                if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                    status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", value[:20])
                    if status & 0x10:
                        if not status & 0x40:
                            tpid = 0x8100
                        frame = frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
            stack, at = [], 12
            while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
                tpid, tci = struct.unpack_from("!HH", frame, at)
                stack.append((tpid, tci & 0xFFF))
                at += 4
            if tuple(stack) in ports:
                try:
                    os.write(ports[tuple(stack)][0], frame[:12] + frame[at:])
                except OSError as error:  # a device that is not up yet
                    print(f"vlan-port: {error}", file=sys.stderr)


def cmd_tunnel(args):
    """A TUN device in this namespace joined to one in another namespace."""
    near = open_tun(args.name, IFF_TUN)
    libc = ctypes.CDLL(None, use_errno=True)
    with open(args.other, "rb") as handle:
        if libc.setns(handle.fileno(), 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")
    far = open_tun(args.name, IFF_TUN)
    print("ready", flush=True)
    other = {near: far, far: near}
    while True:
        for one in select.select([near, far], [], [])[0]:
            try:
                os.write(other[one], os.read(one, 65535))
            except OSError as error:  # a device that is not up yet
                print(f"tunnel: {error}", file=sys.stderr)


# --------------------------------------------------------------------------
# to-null: Ethernet to BSD null
# --------------------------------------------------------------------------


def cmd_to_null(args):
    """Rewrite a little-endian Ethernet pcap with BSD null link headers.

    The header is the address family as a 32-bit number in the byte order of
    the file: 2 for IPv4, 30 for IPv6 (the number Darwin uses).
    """
    with open(args.source, "rb") as handle:
        data = handle.read()
    magic, major, minor, zone, sigfigs, snaplen, link = struct.unpack_from("<IHHiIII", data)
    if magic not in (0xA1B2C3D4, 0xA1B23C4D) or link != 1:
        sys.exit("to-null: not a little-endian Ethernet pcap")
    out = bytearray(struct.pack("<IHHiIII", magic, major, minor, zone, sigfigs, snaplen, 0))
    at = 24
    while at < len(data):
        seconds, part, kept, length = struct.unpack_from("<IIII", data, at)
        frame = data[at + 16 : at + 16 + kept]
        at += 16 + kept
        family = {b"\x08\x00": 2, b"\x86\xdd": 30}.get(frame[12:14])
        if family is None:
            continue
        packet = struct.pack("<I", family) + frame[14:]
        out += struct.pack("<IIII", seconds, part, len(packet), length - 10) + packet
    with open(args.target, "wb") as handle:
        handle.write(out)


# --------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)

    def command(name, function, *arguments):
        sub = commands.add_parser(name, help=(function.__doc__ or "").split("\n")[0])
        sub.set_defaults(function=function)
        for flags, options in arguments:
            sub.add_argument(*flags.split(), **options)

    some = {"nargs": "+"}
    number = {"type": int}
    need = {"required": True}
    command("serve", cmd_serve, ("--http", {"action": "store_true"}), ("addresses", some))
    command("echo", cmd_echo, ("address", {}), ("sizes", {"nargs": "+", "type": int}))
    command("flood-echo", cmd_flood_echo, ("address", {}), ("size", number), ("count", number))
    command(
        "burst",
        cmd_burst,
        ("--flows", {"type": int, "default": 3}),
        ("--count", {"type": int, "default": 500}),
        ("--size", {"type": int, "default": 32}),
        ("addresses", some),
    )
    command(
        "keepalive",
        cmd_keepalive,
        ("address", {}),
        ("port", number),
        ("host", {}),
        ("count", number),
    )
    command("abort", cmd_abort, ("address", {}), ("port", number))
    command("multicast", cmd_multicast, ("interface", {}), ("broadcast", {}))
    command(
        "options",
        cmd_options,
        *[(f"--{who}{v}", need) for v in (4, 6) for who in ("client", "server", "router")],
    )
    command("raw-peers", cmd_raw_peers, ("addresses", some))
    command(
        "vlan-port",
        cmd_vlan_port,
        ("--vlan", {"action": "append", "required": True}),
        ("parent", {}),
    )
    command("tunnel", cmd_tunnel, ("name", {}), ("other", {}))
    command("to-null", cmd_to_null, ("source", {}), ("target", {}))
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
