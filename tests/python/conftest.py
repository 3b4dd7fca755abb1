"""What the tests of the Python package share."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import portmaster_kext as pk
import pytest

# With importlib's import mode a test's folder is not on the path, and `builders` lives there.
sys.path.insert(0, str(Path(__file__).parent))

import builders
import hosts

# Whoever starts this in the background may have told it to ignore Ctrl-C, and children inherit
# that: those that are to be interrupted would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run() -> Run:
    """Runs the command line in a process of its own, as a person would."""

    def run(*arguments: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "portmaster_kext", *map(str, arguments)],
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        if check is not None:
            assert done.returncode == check, f"{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Iterator[hosts.Host]:
    """What sessions are opened on: the replay, or what `hosts.both` says."""
    with hosts.named(getattr(request, "param", "replay")) as host:
        yield host


@pytest.fixture
def opened(tmp_path: Path, host: hosts.Host) -> Iterator[Callable[..., pk.Kext]]:
    """Opens a capture of the packets given, and closes it after the test."""
    sessions: list[pk.Kext] = []

    def opened(*packets: bytes, **options: object) -> pk.Kext:
        path = builders.write(tmp_path, *packets, name=f"{len(sessions)}.pcap")
        options.setdefault("local", [builders.CLIENT])
        sessions.append(host.open(f"replay:{path}", **options))
        return sessions[-1]

    yield opened
    for session in sessions:
        session.close()
