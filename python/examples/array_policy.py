"""Decide thousands of requests at once with NumPy: ports by a table, networks by a mask, scans.

    python python/examples/array_policy.py replay:tests/captures/scan.pcap

A batch is columns: one array for each thing that is known of its requests. A policy makes an array
of verdicts from them, without a loop over the requests.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
import portmaster_kext as pk

SCAN = 100
"""Whoever tries so many ports of this machine, or is tried at so many by it, is scanning."""

# A verdict for each port: looking up is indexing.
BY_PORT = np.full(65_536, pk.Verdict.ACCEPT, np.uint8)
BY_PORT[[23, 2323]] = pk.Verdict.BLOCK
BY_PORT[6_000:6_064] = pk.Verdict.DROP


def in_network(addresses: npt.NDArray[np.uint8], prefix: bytes) -> npt.NDArray[np.bool_]:
    """Which of the addresses, rows of 16 bytes, begin with these bytes; IPv4 as ::ffff:a.b.c.d."""
    wanted = np.frombuffer(prefix, np.uint8)
    matches: npt.NDArray[np.bool_] = (addresses[:, : len(wanted)] == wanted).all(axis=1)
    return matches


class Scans:
    """Counts how many requests there were about each remote address."""

    def __init__(self) -> None:
        self.counts: dict[bytes, int] = {}

    def scanning(self, addresses: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Which requests of a batch are about an address that has had too many."""
        # Each address once, where it first comes, and how often: 16 bytes as one value.
        keys = np.ascontiguousarray(addresses).view("V16").ravel()
        found, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        over = np.zeros(len(found), np.bool_)
        for index, (key, count) in enumerate(zip(found, counts, strict=True)):
            total = self.counts.get(key.tobytes(), 0) + int(count)
            self.counts[key.tobytes()] = total
            over[index] = total > SCAN
        rows: npt.NDArray[np.bool_] = over[inverse]
        return rows


def decide(batch: pk.RequestBatch, scans: Scans) -> npt.NDArray[np.uint8]:
    """The verdicts for a batch."""
    verdicts = BY_PORT[batch.remote_port]
    # 192.0.2.0/24 and fe80::/16 are ours: whatever the port.
    ours = in_network(batch.remote_address, b"\0" * 10 + b"\xff\xff" + bytes([192, 0, 2]))
    ours |= in_network(batch.remote_address, b"\xfe\x80")
    verdicts[ours] = pk.Verdict.ACCEPT
    verdicts[scans.scanning(batch.remote_address) & ~ours] = pk.Verdict.DROP
    return verdicts


def main(device: str) -> None:
    """Decide the requests of a device until it ends."""
    scans = Scans()
    outcomes = np.zeros(256, np.int64)
    with pk.open(device) as kext:
        for batch in kext.batches():
            codes = batch.set_verdicts(decide(batch, scans))
            outcomes += np.bincount(codes, minlength=256)
    for code in np.flatnonzero(outcomes).tolist():
        print(f"{pk.Outcome(code)}: {outcomes[code]:,}")
    print(kext.counters())


if __name__ == "__main__":
    main(sys.argv[1])
