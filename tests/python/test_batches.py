"""Batches: arrays over the requests, their verdicts, and what other programs read of them."""

from __future__ import annotations

import gc
import ipaddress
import time

import builders
import numpy as np
import portmaster_kext as pk
import pytest
from builders import datagram, syn
from hosts import both, passed

COLUMNS = {
    "id": np.uint64,
    "time": np.uint64,
    "process_id": np.uint64,
    "local_port": np.uint16,
    "remote_port": np.uint16,
    "version": np.uint8,
    "protocol": np.uint8,
    "direction": np.uint8,
    "flags": np.uint8,
    "size": np.uint32,
    "interface": np.uint32,
    "sub_interface": np.uint32,
    "compartment": np.uint32,
}
"""The columns of one number each, which the object of a request has under the same name."""


def mapped(address) -> bytes:
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


@pytest.fixture
def batch(opened) -> pk.RequestBatch:
    """Ten requests with all their bytes; one of IPv6."""
    packets = [datagram(53, bytes([n]) * n, source_port=1_000 + n) for n in range(9)]
    packets.append(builders.ipv6("2001:db8::1", "2001:db8::2", 17, b"\0\1\0\2\0\x08\0\0"))
    kext = opened(*packets, local=[builders.CLIENT, "2001:db8::1"])
    return next(kext.batches(payload="all"))


@both
def test_a_batch_is_columns_of_what_its_requests_tell(batch):
    assert len(batch) == 10
    requests = list(batch)
    for name, kind in COLUMNS.items():
        column = getattr(batch, name)
        assert column.dtype == kind, name
        assert column.shape == (10,)
        assert column.tolist() == [int(getattr(r, name) or 0) for r in requests], name
    for name in ("local_address", "remote_address"):
        column = getattr(batch, name)
        assert (column.dtype, column.shape) == (np.uint8, (10, 16))
        assert [row.tobytes() for row in column] == [mapped(getattr(r, name)) for r in requests]
    offsets, payload = batch.payload_offsets, batch.payload
    assert (offsets.dtype, offsets.shape, payload.dtype) == (np.uint32, (11,), np.uint8)
    for row, request in enumerate(requests):
        bytes_of_row = payload[offsets[row] : offsets[row + 1]].tobytes()
        assert bytes_of_row == bytes(request.payload)
        assert len(bytes_of_row) == request.size
    assert repr(batch) == f"<RequestBatch of 10 requests, {len(payload)} bytes of payload>"


def test_an_index_gives_the_object(batch):
    assert batch[0] == next(iter(batch))
    assert batch[-1] == batch[9]
    assert batch[3].id == batch.id[3]
    assert isinstance(batch[3], pk.VerdictRequest)
    for wrong in (10, -11):
        with pytest.raises(IndexError, match=f"10 requests, and none at {wrong}"):
            batch[wrong]


def test_arrays_are_views_that_cannot_be_written_and_outlive_everything(opened):
    kext = opened(*(datagram(53, b"payload", source_port=n + 1) for n in range(100)))
    batch = next(kext.batches(payload=40))
    arrays = [getattr(batch, n) for n in (*COLUMNS, "local_address", "payload", "payload_offsets")]
    copies = [array.copy() for array in arrays]
    for array in arrays:
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    again = batch.id
    assert again.__array_interface__["data"] == arrays[0].__array_interface__["data"], "no copy"
    kext.close()
    del batch, kext
    gc.collect()
    for array, copy in zip(arrays, copies, strict=True):
        assert np.array_equal(array, copy)


@both
def test_one_verdict_for_all_or_one_for_each(opened):
    kext = opened(*(syn(port) for port in range(1, 11)))
    batch = next(kext.batches())
    outcomes = batch.set_verdicts(np.where(batch.remote_port > 5, pk.Verdict.DROP, 2))
    assert outcomes.dtype == np.uint8
    assert outcomes.tolist() == [pk.Outcome.APPLIED] * 10
    counters = kext.counters()
    assert (passed(counters), counters.dropped, counters.held) == (5, 5, 0)
    again = batch.set_verdicts(pk.Verdict.ACCEPT)
    assert set(again.tolist()) == {pk.Outcome.ALREADY_DECIDED}
    assert str(pk.Outcome(2)) == "already_decided"
    with pytest.raises(pk.AlreadyDecidedError) as caught:
        batch[9].accept()
    assert caught.value.first == (pk.Verdict.DROP, True)


@pytest.mark.parametrize(
    "verdicts",
    [
        np.array([2, 3, 4], np.uint8),
        np.array([2, 3, 4], np.int8),
        np.array([2, 3, 4], np.int64),
        np.array([2, 9, 3, 9, 4], np.int32)[::2],
        np.array([2, 3, 4], np.uint64),
        [2, 3, 4],
        (pk.Verdict.ACCEPT, pk.Verdict.BLOCK, pk.Verdict.DROP),
    ],
    ids=lambda verdicts: type(verdicts).__name__,
)
@pytest.mark.parametrize("permanent", [True, [True, True, True], np.array([True] * 3)])
def test_whatever_numpy_makes_numbers_of_will_do(opened, verdicts, permanent):
    kext = opened(syn(1), syn(2), syn(3))
    batch = next(kext.batches())
    outcomes = kext.set_verdicts(batch.id, verdicts, permanent)
    assert not outcomes.any()
    counters = kext.counters()
    assert (counters.permitted, counters.blocked, counters.dropped) == (1, 1, 1)
    assert {flow.remote_port: flow.verdict.value for flow in kext.flows()} == {1: 2, 2: 3, 3: 4}


@both
def test_permanent_may_differ_from_row_to_row(opened):
    kext = opened(*(syn(port) for port in (1, 2, 3, 4)))
    batch = next(kext.batches())
    batch.set_verdicts(pk.Verdict.ACCEPT, permanent=batch.remote_port % 2 == 0)
    assert sorted(flow.remote_port for flow in kext.flows()) == [2, 4]
    assert passed(kext.counters()) == 4


@pytest.mark.parametrize(
    ("verdicts", "error", "says"),
    [
        ([2, 7, 2], pk.InvalidVerdictError, r"verdicts\[1\] is 7"),
        ([2, 2, -2], pk.InvalidVerdictError, r"verdicts\[2\] is -2"),
        (np.array([2, 2, 300]), pk.InvalidVerdictError, r"verdicts\[2\] is 300"),
        (np.array([2, 2**64 - 254, 2], np.uint64), pk.InvalidVerdictError, r"verdicts\[1\]"),
        (0, pk.InvalidVerdictError, "0 is no verdict"),
        (2**70, pk.InvalidVerdictError, "1180591620717411303424 is no verdict"),
        ([2.0, 2.0, 2.0], pk.InvalidVerdictError, "not float64"),
        ("accept", pk.InvalidVerdictError, "'accept' is no verdict"),
        ([2, 2], ValueError, "3 ids and 2 values in verdicts"),
        ([[2, 2, 2]], ValueError, "one dimension"),
    ],
)
def test_what_is_no_verdict_decides_nothing(opened, verdicts, error, says):
    kext = opened(syn(1), syn(2), syn(3))
    batch = next(kext.batches())
    for call in (batch.set_verdicts, lambda v: kext.set_verdicts(batch.id, v)):
        with pytest.raises(error, match=says):
            call(verdicts)
    with pytest.raises(ValueError, match="3 ids and 1 values in permanent"):
        batch.set_verdicts(2, permanent=[True])
    assert kext.counters().held == 3


@both
def test_each_id_has_an_outcome_of_its_own(opened):
    kext = opened(syn(1), syn(2))
    batch = next(kext.batches())
    first, second = batch.id.tolist()
    outcomes = kext.set_verdicts([first, 0, first, 12_345, -1, second], pk.Verdict.ACCEPT)
    assert outcomes.tolist() == [0, 1, 2, 1, 1, 0]
    assert kext.set_verdicts([], []).tolist() == []
    with pytest.raises(TypeError, match="ids are integers, not float64"):
        kext.set_verdicts([1.5], 2)


def test_ids_may_lie_in_memory_in_any_way(opened):
    kext = opened(*(syn(port) for port in range(1, 7)))
    batch = next(kext.batches())
    ids = batch.id.tolist()
    odd = np.frombuffer(b"x" + np.array(ids[:1], np.uint64).tobytes(), np.uint64, offset=1)
    fields = np.zeros(1, np.dtype([("a", "u1"), ("id", "u8")]))
    fields["id"] = ids[1]
    swapped = np.array(ids[2:3], ">u8")
    every_second = np.array([ids[3], 0], np.uint64)[::2]
    signed = np.array(ids[4:5], np.int64)
    for some in (odd, fields["id"], swapped, every_second, signed, (ids[5],)):
        assert kext.set_verdicts(some, pk.Verdict.ACCEPT).tolist() == [pk.Outcome.APPLIED]
    with pytest.raises(ValueError, match="one dimension"):
        kext.set_verdicts([[1]], 2)


def test_more_verdicts_than_one_message_holds():
    count = 20_000
    capacities = pk.Capacities(packets=65_536, packet_bytes=64 << 20)
    with pk.open(f"synthetic:{count}", capacities=capacities) as kext:
        ids = np.concatenate([batch.id for batch in kext.batches()])
        assert len(ids) == count == len(np.unique(ids))
        assert not kext.set_verdicts(ids[::-1], pk.Verdict.DROP).any()
        assert kext.counters().dropped == count


def test_a_batch_is_no_larger_than_asked_for():
    with pk.open("synthetic:5000") as kext:
        sizes = []
        for batch in kext.batches(max_requests=100):
            sizes.append(len(batch))
            batch.set_verdicts(pk.Verdict.ACCEPT)
    assert sizes == [100] * 50
    with pk.open("synthetic:5000") as kext:
        assert len(next(kext.batches())) == 512, "half the packet cache"
    capacities = pk.Capacities(packets=8_192)
    with pk.open("synthetic:5000,payload=600", capacities=capacities) as kext:
        batch = next(kext.batches(payload=512))
        assert (len(batch), batch.payload.size) == (4_096, 4_096 * 512)


@both
def test_what_the_iterator_had_taken_comes_first(opened):
    kext = opened(*(syn(port) for port in range(1, 11)), payload=20)
    kept = [next(kext), next(kext)]
    first, *more = list(kext.batches())
    assert more == []
    assert first.remote_port.tolist() == list(range(3, 11))
    assert [bytes(r.payload) for r in first] == [syn(port)[:20] for port in range(3, 11)]
    rows = [
        first.payload[a:b].tobytes()
        for a, b in zip(first.payload_offsets[:-1], first.payload_offsets[1:], strict=True)
    ]
    assert rows == [syn(port)[:20] for port in range(3, 11)]
    assert pytest.importorskip("pyarrow").record_batch(first)["payload"].to_pylist() == rows
    first.set_verdicts(pk.Verdict.ACCEPT)
    for request in kept:
        request.accept()
    assert passed(kext.counters()) == 10


@both
def test_a_wait_that_is_over_gives_an_empty_batch(host, tmp_path):
    with host.open(f"replay:{builders.slow(tmp_path)}", realtime=True) as kext:
        batches = kext.batches(max_wait=0.05)
        assert len(next(batches)) == 1
        begun = time.monotonic()
        empty = next(batches)
        assert time.monotonic() - begun >= 0.05
        assert len(empty) == 0
        assert empty.payload_offsets.tolist() == [0]
        assert empty.set_verdicts(pk.Verdict.ACCEPT).tolist() == []
        assert pytest.importorskip("pyarrow").record_batch(empty).num_rows == 0
        assert len(next(kext.batches(max_wait=0))) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"max_requests": 0},
        {"max_requests": 4_097},
        {"max_requests": 2.0},
        {"max_wait": -1},
        {"max_wait": float("nan")},
        {"payload": -1},
        {"payload": 65_576},
        {"payload": "some"},
    ],
)
def test_options_out_of_range_are_refused(opened, options):
    kext = opened(syn(1))
    with pytest.raises(pk.ConfigError, match=next(iter(options))):
        kext.batches(**options)


@both
@pytest.mark.parametrize("mode", [0, 1, 30, "all", 65_575])
def test_payload_comes_with_the_request(opened, mode):
    packet = datagram(53, b"some data")
    request = next(opened(packet, payload=mode))
    payload = request.payload
    if mode == 0:
        assert payload is None
        return
    wanted = packet if mode == "all" else packet[:mode]
    assert isinstance(payload, memoryview)
    assert payload.readonly
    assert payload == wanted
    request.accept()
    del request
    gc.collect()
    assert payload == wanted, "valid as long as it is kept"


@both
def test_the_largest_packet_comes_whole(opened):
    packet = builders.ipv6("2001:db8::1", "2001:db8::2", 59, bytes(range(255)) * 257)
    assert len(packet) == 65_575
    kext = opened(packet, payload="all", local=["2001:db8::1"])
    request = next(kext)
    assert request.size == 65_575
    assert bytes(request.payload) == packet
    assert kext.get_payload(request.id) == packet


@both
def test_verdicts_of_objects_and_arrays_know_each_other(opened):
    kext = opened(*(syn(port) for port in range(1, 5)))
    batch = next(kext.batches())
    batch[0].drop()
    outcomes = batch.set_verdicts(pk.Verdict.ACCEPT)
    assert outcomes.tolist() == [2, 0, 0, 0], "the object's verdict went first"
    with pytest.raises(pk.AlreadyDecidedError, match="accept"):
        batch[1].drop()


@both
def test_a_closed_session_ends_batches(opened):
    kext = opened(syn(1))
    batches = kext.batches()
    batch = next(batches)
    kext.close()
    assert list(batches) == []
    with pytest.raises(pk.ClosedError):
        batch.set_verdicts(pk.Verdict.ACCEPT)
    with pytest.raises(pk.ClosedError):
        kext.set_verdicts(batch.id, pk.Verdict.ACCEPT)
    assert batch.remote_port.tolist() == [1], "what was received stays"


def test_arrow_reads_a_batch_without_a_copy(batch):
    arrow = pytest.importorskip("pyarrow")
    table = arrow.record_batch(batch)
    assert table.num_rows == 10
    assert table.schema.names == [
        "id",
        "time",
        "process_id",
        "local_address",
        "remote_address",
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
        "payload",
    ]
    assert table.schema.field("time").type == arrow.timestamp("ns", "UTC")
    assert table.schema.field("local_address").type == arrow.binary(16)
    address = batch.remote_port.__array_interface__["data"][0]
    assert table["remote_port"].buffers()[1].address == address
    assert arrow.table(batch).num_rows == 10, "as a stream"
    assert arrow.schema(batch) == table.schema


def test_addresses_are_read_as_ip_addresses(batch):
    for row, request in zip(batch.remote_address, batch, strict=True):
        address = ipaddress.IPv6Address(row.tobytes())
        assert (address.ipv4_mapped or address) == request.remote_address


@both
def test_a_batch_is_no_larger_than_asked_for_whoever_fetched_it(opened):
    kext = opened(*(syn(port) for port in range(1, 101)), payload=8)
    assert next(kext).remote_port == 1
    small = next(kext.batches(7))
    assert small.remote_port.tolist() == list(range(2, 9))
    assert bytes(small[0].payload) == syn(2)[:8]
    assert [len(batch) for batch in kext.batches(90)] == [42, 50], "the rest, then the next 50 ms"


def test_polars_reads_batches_and_flows(opened):
    polars = pytest.importorskip("polars")
    kext = opened(*(syn(port) for port in range(1, 11)))
    batch = next(kext.batches(payload="all"))
    table = polars.DataFrame(batch)
    assert table["remote_port"].to_list() == list(range(1, 11))
    assert table["payload"].to_list() == [syn(port) for port in range(1, 11)]
    assert table["time"].dt.timestamp("ns").to_list() == batch.time.tolist()
    assert table["local_address"][0] == mapped(ipaddress.ip_address(builders.CLIENT))
    batch.set_verdicts(pk.Verdict.DROP)
    flows = polars.DataFrame(kext.flows().columns())
    assert flows.filter(polars.col("remote_port") > 5).height == 5


def test_duckdb_reads_batches_and_flows(opened):
    duckdb = pytest.importorskip("duckdb")
    kext = opened(*(syn(port) for port in range(1, 11)))
    batch = next(kext.batches())
    with duckdb.connect() as database:
        # Both are found by the names of these variables.
        sums = "select count(*), sum(remote_port), min(id) from batch"
        assert database.sql(sums).fetchall() == [(10, 55, int(batch.id.min()))]
        batch.set_verdicts(pk.Verdict.DROP)
        flows = kext.flows().columns()
        assert len(flows) == 10
        rows = database.sql("select verdict, count(*) from flows group by 1").fetchall()
        assert rows == [(pk.Verdict.DROP, 10)]


@pytest.mark.parametrize("permanent", [["False"], [0.5], ["no"], [1, 0, 1], None, 1, "no"])
def test_permanent_takes_booleans_only(batch, permanent):
    with pytest.raises(TypeError, match="permanent is True or False"):
        batch.set_verdicts(pk.Verdict.ACCEPT, permanent=permanent)
    # Nothing was decided.
    outcome = batch.set_verdicts(pk.Verdict.ACCEPT)
    assert (outcome == pk.Outcome.APPLIED).all()


def test_an_index_beyond_any_list_is_an_index_error(batch):
    for index in (1 << 64, -(1 << 64)):
        with pytest.raises(IndexError, match=r"has \d+ requests, and none at"):
            batch[index]
    with pytest.raises(TypeError):
        batch["0"]


@pytest.mark.parametrize(
    "part", [slice(None), slice(1, 3), slice(-1, None), slice(2, 1), slice(5, 9), slice(0, 0)]
)
def test_a_part_of_a_batch_is_a_batch_in_the_same_memory(batch, part):
    whole = list(batch)
    some = batch[part]
    assert isinstance(some, pk.RequestBatch)
    assert list(some) == whole[part]
    assert (some.id == batch.id[part]).all()
    assert len(some) == 0 or np.shares_memory(some.id, batch.id)


def test_a_part_of_a_batch_leaves_none_out(batch):
    for step in (2, -1):
        with pytest.raises(ValueError, match="step"):
            batch[::step]
