"""The driver in Speakeasy, an emulator of Windows kernels that others wrote.

It runs the code of the file that ships on an emulated processor. What it knows of the kernel, it
does itself; what it does not know is added here, as little as the driver needs to be loaded and
unloaded. What arguments point to is read by the layouts of Microsoft's documentation, which are
written down once more for this: nothing here comes from the declarations that the driver is
compiled with.
"""

from __future__ import annotations

import struct
import uuid
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

with warnings.catch_warnings():
    # They are older than what Python and setuptools now warn of.
    warnings.simplefilter("ignore")
    import pefile
    from speakeasy import Speakeasy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SUCCESS = 0
SERVICE_RUNNING = 3
# As many arguments as any function here has.
MOST_ARGUMENTS = 10
# DRIVER_OBJECT.DriverUnload
DRIVER_UNLOAD = 0x68
ARENA = 1 << 20
# As much as a kernel stack has; the emulator takes the size for programs from the file.
STACK = 24 << 10


@dataclass(frozen=True)
class Call:
    """One call of the driver: the function, and what the test may want to know of its arguments."""

    name: str
    fact: Any


class Machine:
    """An emulated machine."""

    def __init__(self, path: Path) -> None:
        """Maps the file; nothing runs yet."""
        # Calls that the driver made of the functions in READ, in their order.
        self.calls: list[Call] = []
        self._next_handle = 0x7000
        self._arena = range(0)
        self._speakeasy = Speakeasy()
        self._module = self._speakeasy.load_module(str(path))
        self._emulator.stack_base, _ = self._emulator.alloc_stack(STACK)
        for module, name in _imports(path):
            self._speakeasy.add_api_hook(self._called, module, name, argc=MOST_ARGUMENTS)

    def run_entry(self) -> int:
        """Runs DriverEntry, and gives its status."""
        self._speakeasy.run_module(self._module, all_entrypoints=False)
        return self._ended()

    def run_unload(self) -> None:
        """Runs DriverUnload."""
        driver = self._emulator.drivers[-1].address
        (routine,) = struct.unpack("<Q", self._read(driver + DRIVER_UNLOAD, 8))
        assert routine, "the driver has no DriverUnload"
        self._speakeasy.call(routine, [driver])
        self._ended()

    def _ended(self) -> int:
        last = self._speakeasy.get_report()["entry_points"][-1]
        assert not last.get("error"), last["error"]
        return int(last["ret_val"], 16)

    @property
    def _emulator(self) -> Any:
        return self._speakeasy.emu

    def _called(self, _emulator: object, name: str, known: Any, arguments: list[Any]) -> Any:
        """A call of the driver, which Speakeasy may know how to do."""
        name = name.rpartition(".")[2]
        if name in READ:
            self.calls.append(Call(name, READ[name](self, arguments)))
        if name in ADDED:
            return ADDED[name](self, arguments)
        return known(arguments) if known else SUCCESS

    # What functions need that are added.

    def allocate(self, size: int) -> int:
        """Memory of the kernel, all zero."""
        size = -(-size // 64) * 64
        if size > ARENA // 16:
            return self._emulator.mem_map(size, tag="pool")
        if len(self._arena) < size:
            start = self._emulator.mem_map(ARENA, tag="pool")
            self._arena = range(start, start + ARENA)
        start, self._arena = self._arena.start, self._arena[size:]
        return start

    def give_handle(self, place: int, size: int) -> int:
        """Writes a new handle to where the driver wants it."""
        self._next_handle += 1
        self._speakeasy.mem_write(place, self._next_handle.to_bytes(size, "little"))
        return SUCCESS

    # Reading what arguments point to.

    def _read(self, address: int, size: int) -> bytes:
        return bytes(self._speakeasy.mem_read(address, size))

    def guid(self, address: int) -> uuid.UUID:
        """The identifier at an address."""
        return uuid.UUID(bytes_le=self._read(address, 16))

    def guid_of(self, pointer: int) -> uuid.UUID:
        """The identifier that the pointer at an address points to."""
        return self.guid(struct.unpack("<Q", self._read(pointer, 8))[0])

    def text(self, address: int) -> str:
        """The UNICODE_STRING at an address."""
        length, _, _, start = struct.unpack("<HHIQ", self._read(address, 16))
        return self._read(start, length).decode("utf-16-le")

    def number(self, address: int, size: int) -> int:
        """The number at an address."""
        return int.from_bytes(self._read(address, size), "little")


def _imports(path: Path) -> list[tuple[str, str]]:
    """Modules, without their extension, and functions that the file imports."""
    return [
        (entry.dll.decode().rpartition(".")[0], function.name.decode())
        for entry in pefile.PE(str(path)).DIRECTORY_ENTRY_IMPORT
        for function in entry.imports
    ]


# What Speakeasy lacks, or answers for its own purposes. All else that it lacks succeeds.
ADDED: dict[str, Callable[[Machine, list[Any]], Any]] = {
    "ExAllocatePool2": lambda machine, its: machine.allocate(its[1]),
    "ExFreePoolWithTag": lambda _machine, _its: SUCCESS,
    "IoAllocateMdl": lambda machine, _its: machine.allocate(0x400),
    "IoFreeMdl": lambda _machine, _its: SUCCESS,
    "IoAllocateWorkItem": lambda machine, _its: machine.allocate(0x100),
    "KeQueryMaximumProcessorCountEx": lambda _machine, _its: 2,
    "NdisAllocateNetBufferListPool": lambda machine, _its: machine.allocate(0x100),
    "NdisFreeNetBufferListPool": lambda _machine, _its: SUCCESS,
    "FwpmBfeStateGet0": lambda _machine, _its: SERVICE_RUNNING,
    "FwpmBfeStateSubscribeChanges0": lambda machine, its: machine.give_handle(its[3], 8),
    "FwpmEngineOpen0": lambda machine, its: machine.give_handle(its[4], 8),
    "FwpmEngineClose0": lambda _machine, _its: SUCCESS,
    "FwpmSubLayerAdd0": lambda _machine, _its: SUCCESS,
    "FwpmCalloutAdd0": lambda _machine, _its: SUCCESS,
    "FwpmFilterAdd0": lambda _machine, _its: SUCCESS,
    "FwpsCalloutRegister2": lambda machine, its: machine.give_handle(its[2], 4),
    "FwpsCalloutUnregisterById0": lambda _machine, _its: SUCCESS,
    "FwpsInjectionHandleCreate0": lambda machine, its: machine.give_handle(its[2], 8),
    "FwpsInjectionHandleDestroy0": lambda _machine, _its: SUCCESS,
}


def _nothing(_machine: Machine, _its: list[Any]) -> None:
    return None


def _first(_machine: Machine, its: list[Any]) -> Any:
    return its[0]


# Calls that are noted, each with what is noted of it. Offsets are those of the structures for x64.
READ: dict[str, Callable[[Machine, list[Any]], Any]] = {
    # Name, type, FILE_DEVICE_SECURE_OPEN
    "IoCreateDevice": lambda machine, its: (machine.text(its[2]), its[3], its[4]),
    "IoDeleteDevice": _nothing,
    "IoCreateSymbolicLink": lambda machine, its: (machine.text(its[0]), machine.text(its[1])),
    "IoDeleteSymbolicLink": lambda machine, its: machine.text(its[0]),
    "IoRegisterShutdownNotification": _nothing,
    "IoUnregisterShutdownNotification": _nothing,
    "NdisAllocateNetBufferListPool": _nothing,
    "NdisFreeNetBufferListPool": _nothing,
    # FWPS_CALLOUT2.calloutKey
    "FwpsCalloutRegister2": lambda machine, its: machine.guid(its[1]),
    "FwpsCalloutUnregisterById0": _first,
    "FwpmBfeStateSubscribeChanges0": _nothing,
    "FwpmBfeStateUnsubscribeChanges0": _first,
    "FwpsInjectionHandleCreate0": lambda _machine, its: (its[0] & 0xFFFF, its[1]),
    "FwpsInjectionHandleDestroy0": _first,
    # FWPM_SESSION0.flags
    "FwpmEngineOpen0": lambda machine, its: machine.number(its[3] + 32, 4),
    "FwpmEngineClose0": _first,
    "FwpmTransactionBegin0": _first,
    "FwpmTransactionCommit0": _first,
    "FwpmTransactionAbort0": _first,
    # FWPM_PROVIDER0.providerKey
    "FwpmProviderAdd0": lambda machine, its: machine.guid(its[1]),
    # FWPM_SUBLAYER0.subLayerKey, .providerKey, .weight
    "FwpmSubLayerAdd0": lambda machine, its: (
        machine.guid(its[1]),
        machine.guid_of(its[1] + 40),
        machine.number(its[1] + 64, 2),
    ),
    # FWPM_CALLOUT0.calloutKey, .providerKey, .applicableLayer
    "FwpmCalloutAdd0": lambda machine, its: (
        machine.guid(its[1]),
        machine.guid_of(its[1] + 40),
        machine.guid(its[1] + 64),
    ),
    # FWPM_FILTER0.action.calloutKey, .providerKey, .layerKey, .subLayerKey, .action.type
    "FwpmFilterAdd0": lambda machine, its: (
        machine.guid(its[1] + 132),
        machine.guid_of(its[1] + 40),
        machine.guid(its[1] + 64),
        machine.guid(its[1] + 80),
        machine.number(its[1] + 128, 4),
    ),
}
