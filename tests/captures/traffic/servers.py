"""The small servers that the clients of record.sh talk to."""

import socket
import sys
import threading

from common import IPPROTO_UDPLITE, family_of


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
