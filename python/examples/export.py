"""Export what a capture comes to: packets as pcapng, requests and flows as Arrow, packets in scapy.

    python python/examples/export.py replay:tests/captures/web.pcapng FOLDER

Needs `pip install pyarrow scapy`. Writes `left.pcapng`, the packets that left, for Wireshark;
`requests.arrow` and `flows.arrow`, tables for pyarrow, polars, DuckDB or pandas; and prints each
kind of packet as scapy dissects it.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import portmaster_kext as pk
import pyarrow as pa
import scapy.layers.dns  # noqa: F401 - so that scapy knows DNS
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import NoPayload, Packet


def dissect(payload: memoryview) -> Packet:
    """A packet for scapy."""
    data = bytes(payload)
    return IPv6(data) if data[:1] and data[0] >> 4 == 6 else IP(data)


def layers(packet: Packet) -> str:
    """The names of its layers, such as `IP/TCP`."""
    names: list[str] = []
    while not isinstance(packet, NoPayload):
        names.append(str(packet.name))
        packet = packet.payload
    return "/".join(names)


def write(path: Path, table: pa.Table) -> None:
    """A table in the file format of Arrow."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def main(device: str, folder: str) -> None:
    """Accept everything, and export it."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    batches = []
    kinds: Counter[str] = Counter()
    with pk.open(device, output=out / "left.pcapng") as kext:
        for batch in kext.batches(payload="all"):
            # Without a copy: the table shows the batch's own memory, and keeps it.
            batches.append(pa.record_batch(batch))
            for request in batch:
                if request.payload is not None:
                    kinds[layers(dissect(request.payload))] += 1
            batch.set_verdicts(pk.Verdict.ACCEPT)
        flows = pa.table(kext.flows().columns())
    requests = pa.Table.from_batches(batches)
    write(out / "requests.arrow", requests)
    write(out / "flows.arrow", flows)
    print(f"requests.arrow: {requests.num_rows:,} rows, {requests.num_columns} columns")
    print(f"flows.arrow: {flows.num_rows:,} rows, {flows.num_columns} columns")
    print(f"left.pcapng: {kext.counters().permitted:,} packets")
    for kind, count in kinds.most_common():
        print(f"{count:>6} {kind}")


if __name__ == "__main__":
    main(*sys.argv[1:])
