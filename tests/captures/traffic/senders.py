"""Ordinary traffic from ordinary sockets: echoes, bursts, keep-alive, aborts, multicast."""

import socket
import struct
import time

from common import family_of, packed


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
