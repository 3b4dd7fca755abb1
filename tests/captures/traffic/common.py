"""What the traffic helpers share: addresses, option headers, numbers that `socket` lacks."""

import socket
import struct

IPPROTO_UDPLITE = 136


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def packed(address):
    return socket.inet_pton(family_of(address), address)


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


EXPERIMENT = (0x1E, b"captures")  # RFC 4727 experiment: skip when not known


PADN = (1, bytes(4))
