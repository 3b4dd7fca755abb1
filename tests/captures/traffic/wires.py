"""Wires in user space (a VLAN port, a tunnel), and a capture rewritten to another link type."""

import ctypes
import fcntl
import os
import select
import socket
import struct
import sys

SOL_PACKET = 263
PACKET_AUXDATA = 8
PACKET_OUTGOING = 4
ETH_P_ALL = 3


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
