"""The device of another process: what is said when that is not there, goes, or talks nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import portmaster_kext as pk
import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX") or sys.platform == "win32", reason="needs Unix sockets"
)

OPENED = b"PMKA" + bytes(12)
"""The server's first answer: the device is open."""

LOST = 0xC000_009D
"""STATUS_DEVICE_NOT_CONNECTED"""

Speak = Callable[[socket.socket], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Speak], str]]:
    """Runs a server of one connection, and gives its device."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kext-"))

        def serve(speak: Speak) -> str:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            path = str(Path(folder) / str(listener.fileno()))
            listener.bind(path)
            listener.listen()

            def run() -> None:
                with listener.accept()[0] as connection:
                    speak(connection)

            thread = threading.Thread(target=run)
            thread.start()
            stack.callback(thread.join, 10)
            return f"socket:{path}"

        yield serve


def answer(connection: socket.socket, status: int, output: bytes = b"") -> None:
    """Answers the next call, whatever it is."""
    header = connection.recv(24, socket.MSG_WAITALL)
    magic, _, number, _, _, length = struct.unpack("<4s5I", header)
    assert magic == b"PMKC"
    connection.recv(length, socket.MSG_WAITALL)
    connection.sendall(struct.pack("<4s3I", b"PMKA", number, status, len(output)) + output)


def hello(connection: socket.socket) -> None:
    """Opens the device: greets, answers HELLO, and the configuration."""
    connection.sendall(OPENED)
    # docs/wire-format.md, HELLO: version 1, no features, the largest packet.
    fields = struct.pack("<HH4B Q 5I 3I", 1, 0, 0, 1, 0, 0, 0, *[1_024] * 5, 4_096, 65_575, 0)
    answer(connection, 0, struct.pack("<4sHHII", b"PMKX", 1, 0x810, 64, 0) + fields)
    header = connection.recv(24, socket.MSG_WAITALL)
    *_, number, _, _, length = struct.unpack("<4s5I", header)
    config = bytearray(connection.recv(length, socket.MSG_WAITALL))
    connection.sendall(struct.pack("<4s3I", b"PMKA", number, 0, len(config)) + config)


def test_nobody_there(tmp_path):
    missing = tmp_path / "missing.socket"
    with pytest.raises(pk.DeviceError, match=r"missing\.socket .*start the process"):
        pk.open(f"socket:{missing}")
    missing.touch()
    with pytest.raises(pk.DeviceError, match="refused"):
        pk.open(f"socket:{missing}")
    with pytest.raises(pk.DeviceError, match="start the process"):
        asyncio.run(opened(f"socket:{missing}"))


async def opened(device: str) -> pk.AsyncKext:
    return await pk.open_async(device)


def test_somebody_else_is_there(serve):
    with pytest.raises(pk.DeviceError, match="no frame of this protocol"):
        pk.open(serve(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")))
    with pytest.raises(pk.DeviceError, match="has closed it"):
        pk.open(serve(lambda connection: None))


def test_the_device_is_another_owners(serve):
    busy = struct.pack("<4s3I", b"PMKA", 0, 0x8000_0011, 0)
    with pytest.raises(pk.ExtensionError, match="STATUS_DEVICE_BUSY") as caught:
        pk.open(serve(lambda connection: connection.sendall(busy)))
    assert caught.value.status == 0x8000_0011


def test_an_extension_that_does_not_say_hello(serve):
    def speak(connection: socket.socket) -> None:
        connection.sendall(OPENED)
        answer(connection, 0xC000_0010)

    with pytest.raises(pk.ProtocolMismatchError):
        pk.open(serve(speak))


def test_a_process_that_goes_away_ends_waits_and_is_told_by_each_call(serve):
    waiting = threading.Event()

    def speak(connection: socket.socket) -> None:
        hello(connection)
        # The call that is to wait.
        connection.recv(24, socket.MSG_WAITALL)
        waiting.wait(10)

    kext = pk.open(serve(speak))
    threading.Timer(0.05, waiting.set).start()
    with pytest.raises(pk.ExtensionError, match="the device is lost") as caught:
        next(kext)
    assert caught.value.status == LOST
    for call in (
        lambda: next(kext),
        lambda: kext.counters(),
        lambda: kext.set_verdicts([1], pk.Verdict.DROP),
        lambda: kext.config,
        lambda: kext.close(),
    ):
        with pytest.raises(pk.ExtensionError, match="closed it"):
            call()
    kext.close()
    assert kext.closed


def test_nonsense_in_place_of_an_answer_ends_the_session(serve):
    def speak(connection: socket.socket) -> None:
        hello(connection)
        header = connection.recv(24, socket.MSG_WAITALL)
        number = header[8:12]
        # More than fits the room that the call gave.
        connection.sendall(b"PMKA" + number + bytes(4) + struct.pack("<I", 1 << 30))
        # The client hangs up.
        while connection.recv(4_096):
            pass

    kext = pk.open(serve(speak))
    with pytest.raises(pk.ExtensionError, match="1073741824 bytes came"):
        next(kext)
    with pytest.raises(pk.ExtensionError):
        kext.close()
