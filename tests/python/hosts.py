"""The hosts that tests run on: the replay, and the driver that ships in a simulated kernel.

Both take the same packets, so a test that says `@both` shows that they come to the same. What only
a replay has (its report, the capacities that it is opened with) is tested with it alone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import portmaster_kext as pk
import pytest

ROOT = Path(__file__).parents[2]
DRIVERS = ROOT / "target" / "driver"

SERVER = os.environ.get("NTSIM_SERVER")
"""The program that loads a driver and serves its device: the tier `ntsim-python` builds it."""

PATIENCE = 30
"""How long a server may take to begin or to end, in seconds."""

both = pytest.mark.parametrize(
    "host", ["replay", pytest.param("driver", marks=pytest.mark.ntsim)], indirect=True
)
"""The test runs on both hosts."""

on_driver = pytest.mark.parametrize(
    "host", [pytest.param("driver", marks=pytest.mark.ntsim)], indirect=True
)
"""The test is about the driver."""


class Host:
    """Opens sessions by the name of a replay, whatever the host is."""

    is_driver = False

    def device(
        self,
        device: str,
        *,
        local: str | Iterable[str] = (),
        realtime: bool = False,
    ) -> str:
        """The device with these packets, to be opened once."""
        return device

    def open(self, device: str, **options) -> pk.Kext:
        return pk.open(self._device(device, options), **options)

    def open_async(self, device: str, **options):
        return pk.open_async(self._device(device, options), **options)

    def _device(self, device: str, options: dict) -> str:
        ours = {name: options[name] for name in ("local", "realtime") if name in options}
        return self.device(device, **ours)

    def settle(self) -> list[dict[str, int]]:
        """What each driver has counted; fails if one has broken a rule. Nothing for a replay.

        Waits until who opened them has closed.
        """
        return []


class Replay(Host):
    """The replay host, in this process."""


class Driver(Host):
    """A process with the driver for each device, which ends when that is closed."""

    is_driver = True

    def __init__(self, driver: str = "PortmasterKext64.sys", *options: str) -> None:
        self._driver = DRIVERS / driver
        self._options = options
        self._folder = tempfile.TemporaryDirectory(prefix="kext-")
        self._servers: list[subprocess.Popen[str]] = []
        self._started = 0

    def device(
        self,
        device: str,
        *,
        local: str | Iterable[str] = (),
        realtime: bool = False,
    ) -> str:
        assert SERVER is not None
        networks = [local] if isinstance(local, str) else local
        self._started += 1
        socket = Path(self._folder.name) / f"{self._started}"
        command = [SERVER, str(socket), str(self._driver), device, *self._options]
        for network in networks:
            command += ["--local", f"{network}" if "/" in str(network) else host_network(network)]
        if realtime:
            command.append("--realtime")
        server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the client.
            start_new_session=True,
        )
        self._servers.append(server)
        assert server.stdout is not None
        if server.stdout.readline() != "ready\n":
            self.settle()
        return f"socket:{socket}"

    def settle(self) -> list[dict[str, int]]:
        servers, self._servers = self._servers, []
        failures, counted = [], []
        for server in servers:
            try:
                # Its input ends, so that one that nobody came to ends, too.
                out, err = server.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                out, err = server.communicate()
                err += f"the server did not end within {PATIENCE} s; is its device still open?"
            if server.returncode:
                failures.append(f"status {server.returncode}\n{err}")
            lines = (line.rsplit(" ", 1) for line in out.splitlines() if line != "ready")
            counted.append({name: int(value) for name, value in lines})
        if failures:
            pytest.fail("\n".join(failures), pytrace=False)
        return counted

    def kill(self) -> None:
        """The machines stop, as if a plug were pulled."""
        for server in self._servers:
            server.kill()
            server.wait()

    def end(self) -> None:
        """After the last test."""
        try:
            self.settle()
        finally:
            self._folder.cleanup()


def host_network(address: str) -> str:
    """The network of one address."""
    return f"{address}/{128 if ':' in address else 32}"


@contextlib.contextmanager
def named(name: str):
    """The host of this name; what its drivers have broken fails whoever uses it."""
    if name == "replay":
        yield Replay()
        return
    if SERVER is None:
        pytest.skip("the driver runs where it was built: cargo xtask test ntsim-python")
    host = Driver()
    try:
        yield host
    finally:
        host.end()


def shown(counters: pk.Counters) -> int:
    """How many packets were seen. Windows shows those that were injected again: without them."""
    return counters.seen - counters["permitted_injected"]


def passed(counters: pk.Counters) -> int:
    """How many packets were let go, without those that were injected and seen again."""
    return counters.permitted - counters["permitted_injected"]
