"""What the driver registers when it is loaded, and that all of it is gone when it is unloaded."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from machine import SUCCESS, Call, Machine

DRIVER = Path(__file__).parents[2] / "target" / "driver" / "PortmasterKext64.sys"

DEVICE = "\\Device\\PortmasterKext"
LINK = "\\??\\PortmasterKext"
FILE_DEVICE_NETWORK = 0x12
FILE_DEVICE_SECURE_OPEN = 0x100

# fwpmu.h: for each layer that is looked at, IPv4 and IPv6.
LAYERS = [
    ("INBOUND_IPPACKET_V4", "c86fd1bf-21cd-497e-a0bb-17425c885c58"),
    ("INBOUND_IPPACKET_V6", "f52032cb-991c-46e7-971d-2601459a91ca"),
    ("OUTBOUND_IPPACKET_V4", "1e5c9fae-8a84-4135-a331-950b54229ecd"),
    ("OUTBOUND_IPPACKET_V6", "a3b3ab6b-3564-488c-9117-f34e82142763"),
    ("ALE_AUTH_CONNECT_V4", "c38d57d1-05a7-4c33-904f-7fbceee60e82"),
    ("ALE_AUTH_CONNECT_V6", "4a72393b-319f-44bc-84c3-ba54dcb3b6b4"),
    ("ALE_AUTH_RECV_ACCEPT_V4", "e1cd9fe7-f4b5-4273-96c0-592e487b8650"),
    ("ALE_AUTH_RECV_ACCEPT_V6", "a3b42c97-9f04-4672-b87e-cee9c483257f"),
    ("ALE_ENDPOINT_CLOSURE_V4", "b4766427-e2a2-467a-bd7e-dbcd1bd85a09"),
    ("ALE_ENDPOINT_CLOSURE_V6", "bb536ccd-4755-4ba9-9ff7-f9edf8699c7b"),
    ("STREAM_V4", "3b89653c-c170-49e4-b1cd-e0eeeee19a3e"),
    ("STREAM_V6", "47c9137a-7ec4-46b3-b6e4-48e926b1eda4"),
    ("DATAGRAM_DATA_V4", "3d08bf4e-45f6-4930-a922-417098e20027"),
    ("DATAGRAM_DATA_V6", "fa45fe2f-3cba-4427-87fc-57b9a4b10d00"),
]
# The first layers are of packets, in a sublayer of their own; these and connects are decided, the
# others only looked at.
OF_PACKETS = 4
DECIDED = 6
FWP_ACTION_CALLOUT_INSPECTION = 0x6004
FWP_ACTION_CALLOUT_UNKNOWN = 0x4005
FWPM_SESSION_FLAG_DYNAMIC = 1
FWPS_INJECTION_TYPE_NETWORK = 4
AF_INET, AF_INET6 = 2, 23


def key(number: int) -> UUID:
    """One of the driver's own identifiers, which other software may know."""
    return UUID(f"{0xC91AA900 + number:08x}-90da-485b-8a9b-b3aa415ac9a1")


PROVIDER, PACKETS, FLOWS = key(0), key(1), key(2)
CALLOUTS = [key(0x10 + number) for number in range(len(LAYERS))]


@pytest.fixture(scope="module")
def lives() -> tuple[list[Call], list[Call]]:
    """The calls while the driver is loaded, and those while it is unloaded."""
    machine = Machine(DRIVER)
    assert machine.run_entry() == SUCCESS
    loading = len(machine.calls)
    machine.run_unload()
    return machine.calls[:loading], machine.calls[loading:]


def facts(calls: list[Call], name: str) -> list[object]:
    """What is known of the calls of a function."""
    return [call.fact for call in calls if call.name == name]


def test_the_device_has_the_names_that_programs_use(lives) -> None:
    loading, _ = lives
    device = (DEVICE, FILE_DEVICE_NETWORK, FILE_DEVICE_SECURE_OPEN)
    assert facts(loading, "IoCreateDevice") == [device]
    assert facts(loading, "IoCreateSymbolicLink") == [(LINK, DEVICE)]


def test_every_callout_is_registered_once_and_in_order(lives) -> None:
    loading, _ = lives
    assert facts(loading, "FwpsCalloutRegister2") == CALLOUTS


def test_objects_are_added_in_one_transaction_of_a_dynamic_session(lives) -> None:
    loading, _ = lives
    assert facts(loading, "FwpmEngineOpen0") == [FWPM_SESSION_FLAG_DYNAMIC]
    names = [call.name for call in loading if call.name.startswith("Fwpm")]
    begin, commit = (names.index(f"FwpmTransaction{it}0") for it in ("Begin", "Commit"))
    added = ["FwpmProviderAdd0", "FwpmSubLayerAdd0", "FwpmSubLayerAdd0"]
    added += ["FwpmCalloutAdd0", "FwpmFilterAdd0"] * len(LAYERS)
    assert names[begin + 1 : commit] == added
    others = ["FwpmBfeStateSubscribeChanges0", "FwpmEngineOpen0"]
    assert sorted(names[:begin] + names[commit + 1 :]) == others


def test_every_object_has_its_key_and_belongs_to_the_provider(lives) -> None:
    loading, _ = lives
    assert facts(loading, "FwpmProviderAdd0") == [PROVIDER]
    sublayers = [(PACKETS, PROVIDER, 0xFFFF), (FLOWS, PROVIDER, 0x100)]
    assert facts(loading, "FwpmSubLayerAdd0") == sublayers
    layers = [UUID(layer) for _, layer in LAYERS]
    callouts = [(callout, PROVIDER, layer) for callout, layer in zip(CALLOUTS, layers, strict=True)]
    assert facts(loading, "FwpmCalloutAdd0") == callouts
    filters = [
        (
            callout,
            PROVIDER,
            layer,
            PACKETS if number < OF_PACKETS else FLOWS,
            FWP_ACTION_CALLOUT_UNKNOWN if number < DECIDED else FWP_ACTION_CALLOUT_INSPECTION,
        )
        for number, (callout, layer) in enumerate(zip(CALLOUTS, layers, strict=True))
    ]
    assert facts(loading, "FwpmFilterAdd0") == filters


def test_packets_are_injected_each_way_in_each_family(lives) -> None:
    loading, _ = lives
    families = [AF_INET, AF_INET, AF_INET6, AF_INET6]
    handles = [(family, FWPS_INJECTION_TYPE_NETWORK) for family in families]
    assert facts(loading, "FwpsInjectionHandleCreate0") == handles


def test_programs_find_the_device_when_all_else_is_there(lives) -> None:
    loading, _ = lives
    last = [call.name for call in loading][-2:]
    assert last == ["IoCreateSymbolicLink", "IoRegisterShutdownNotification"]


# What is made, and what ends it; the last to be made are the first to end, but for the names of the
# device, which end with it.
PAIRS = [
    ("FwpmBfeStateSubscribeChanges0", "FwpmBfeStateUnsubscribeChanges0"),
    ("FwpmEngineOpen0", "FwpmEngineClose0"),
    ("FwpsCalloutRegister2", "FwpsCalloutUnregisterById0"),
    ("FwpsInjectionHandleCreate0", "FwpsInjectionHandleDestroy0"),
    ("NdisAllocateNetBufferListPool", "NdisFreeNetBufferListPool"),
    ("IoRegisterShutdownNotification", "IoUnregisterShutdownNotification"),
    ("IoCreateSymbolicLink", "IoDeleteSymbolicLink"),
    ("IoCreateDevice", "IoDeleteDevice"),
]


def test_unloading_ends_each_thing_once_and_in_order(lives) -> None:
    loading, unloading = lives
    expected = [end for make, end in PAIRS for _ in facts(loading, make)]
    assert [call.name for call in unloading] == expected
    for _, end in PAIRS:
        ended = facts(unloading, end)
        assert len(set(ended)) == len(ended), f"{end} of one thing twice"
    assert facts(unloading, "IoDeleteSymbolicLink") == [LINK]


def test_callouts_end_in_the_reverse_order(lives) -> None:
    _, unloading = lives
    numbers = facts(unloading, "FwpsCalloutUnregisterById0")
    assert numbers == sorted(numbers, reverse=True)
