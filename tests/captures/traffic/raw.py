"""What no kernel socket can send: odd extension-header chains, SCTP and DCCP by raw sockets."""

import socket
import struct
import threading
import time

from common import EXPERIMENT, PADN, family_of, option_header, packed
from senders import pattern

IPPROTO_SCTP = 132
IPPROTO_DCCP = 33


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
