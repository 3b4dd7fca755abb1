"""Properties: the object, the arrays and the Arrow table of a batch are the same requests."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import builders
import portmaster_kext as pk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

arrow = pytest.importorskip("pyarrow", reason="pyarrow reads what we offer")

PORT = st.integers(1, 65_535)
DATA = st.binary(max_size=60)

V4 = st.builds(lambda port, other, data: builders.datagram(port, data, other), PORT, PORT, DATA)
V6 = st.builds(
    lambda port, other, data: builders.ipv6(
        "2001:db8::1", "2001:db8::2", 17, builders.udp_datagram(other, port, data)
    ),
    PORT,
    PORT,
    DATA,
)
INBOUND = st.builds(
    lambda port, data: builders.ipv4(
        builders.SERVER, builders.CLIENT, 132, bytes([0, port]) + data
    ),
    st.integers(0, 255),
    st.binary(min_size=10, max_size=20),
)
ODD = st.builds(
    lambda protocol: builders.ipv4(builders.CLIENT, builders.SERVER, protocol, b"x"),
    st.sampled_from([47, 50, 99]),
)
PACKETS = st.lists(st.one_of(V4, V6, INBOUND, ODD), min_size=1, max_size=60)
PAYLOAD = st.one_of(st.just("all"), st.integers(0, 100))

NAMES = [
    "id",
    "local_port",
    "remote_port",
    "version",
    "protocol",
    "direction",
    "flags",
    "size",
    "interface",
    "sub_interface",
    "compartment",
]


def mapped(address) -> bytes:
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def by_object(batch: pk.RequestBatch) -> list[tuple]:
    return [
        (
            *(int(getattr(request, name)) for name in NAMES),
            request.time,
            request.process_id or 0,
            mapped(request.local_address),
            mapped(request.remote_address),
            bytes(request.payload or b""),
        )
        for request in batch
    ]


def by_array(batch: pk.RequestBatch) -> list[tuple]:
    offsets = batch.payload_offsets.tolist()
    payload = batch.payload.tobytes()
    return list(
        zip(
            *(getattr(batch, name).tolist() for name in (*NAMES, "time", "process_id")),
            (row.tobytes() for row in batch.local_address),
            (row.tobytes() for row in batch.remote_address),
            (payload[a:b] for a, b in itertools.pairwise(offsets)),
            strict=True,
        )
    )


def by_arrow(batch: pk.RequestBatch) -> list[tuple]:
    table = arrow.record_batch(batch)
    assert arrow.table(batch).to_batches() == [table]
    times = table["time"].cast(arrow.int64())
    others = ("process_id", "local_address", "remote_address", "payload")
    columns = [*(table[name] for name in NAMES), times, *(table[name] for name in others)]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


@settings(deadline=None)
@given(packets=PACKETS, payload=PAYLOAD, most=st.integers(1, 40), taken=st.integers(0, 3))
def test_object_arrays_and_arrow_agree(packets, payload, most, taken):
    with tempfile.TemporaryDirectory() as folder:
        path = builders.write(Path(folder), *packets)
        kext = pk.open(
            f"replay:{path}",
            local=[builders.CLIENT, "2001:db8::1"],
            ask_all=True,
            max_requests=most,
            payload=payload,
        )
        with kext:
            # What is left of a batch that the iterator has begun is a view of its rest.
            seen = [request.id for _, request in zip(range(taken), kext, strict=False)]
            for request_id in seen:
                kext.set_verdict(request_id, pk.Verdict.ACCEPT)
            for batch in kext.batches(most, payload=payload):
                objects = by_object(batch)
                assert objects == by_array(batch) == by_arrow(batch)
                assert len(batch) == len(objects) <= most
                assert not batch.set_verdicts(pk.Verdict.ACCEPT).any()
                seen += batch.id.tolist()
        counters = kext.counters()
        assert counters.requests == len(seen) == len(set(seen))
        assert counters.seen == counters.permitted == len(packets)
