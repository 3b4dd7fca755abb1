"""What the ways of asking Python for verdicts cost, in requests a second.

    python python/benches/paths.py [--json FILE] [--runs N] [NAME …]

Everything from packet to verdict is measured: packets are made up by the replay host
(`synthetic:COUNT`), classified, held, asked about through the bytes of the extended interface,
decided in Python, released and counted. With the default capacities, so batches are of 512: larger
ones are slower, as what they hold leaves the processor's caches. On one core; figures are medians
of several runs, ratios are to the first path, and the targets are those of the project. Run by
`make bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import portmaster_kext as pk
from portmaster_kext.options import Payload


@dataclasses.dataclass(frozen=True)
class Way:
    """One way of asking."""

    name: str
    about: str
    target: int | None
    """Requests a second."""
    count: int
    """Requests of a run."""
    run: Callable[[int], int]
    """Decides so many requests, and returns how many it has decided."""


def _open(count: int, *, data: int = 64, payload: Payload = 0, interval: float = 0.001) -> pk.Kext:
    return pk.open(
        f"synthetic:{count},payload={data}",
        payload=payload,
        flush_interval=interval,
    )


def arrays(count: int) -> int:
    """Receive, decide with NumPy, set verdicts."""
    decided = 0
    with _open(count) as kext:
        for batch in kext.batches():
            verdicts = np.where(batch.remote_port == 80, np.uint8(4), np.uint8(2))
            outcomes = batch.set_verdicts(verdicts)
            decided += len(outcomes) - np.count_nonzero(outcomes)
    return decided


def arrays_temporary(count: int) -> int:
    """The same with verdicts for one packet each: no flow is cached, so none has to make room."""
    decided = 0
    with _open(count) as kext:
        for batch in kext.batches():
            verdicts = np.where(batch.remote_port == 80, np.uint8(4), np.uint8(2))
            outcomes = batch.set_verdicts(verdicts, permanent=False)
            decided += len(outcomes) - np.count_nonzero(outcomes)
    return decided


def scalar(count: int) -> int:
    """Receive batches, one verdict for each whole batch."""
    decided = 0
    with _open(count) as kext:
        for batch in kext.batches():
            decided += len(batch.set_verdicts(pk.Verdict.ACCEPT))
    return decided


def iterator(count: int) -> int:
    """One request after the other: one attribute read, one verdict each."""
    with _open(count) as kext:
        for request in kext:
            if request.remote_port == 80:
                request.drop()
            else:
                request.accept()
        return kext.counters().events["verdict_applied"]


def iterator_payload(count: int) -> int:
    """The same with 512 bytes of payload, whole packets."""
    with _open(count, data=484, payload="all") as kext:
        for request in kext:
            payload = request.payload
            if payload is not None and payload[28] == 1:
                request.drop()
            else:
                request.accept()
        return kext.counters().events["verdict_applied"]


def iterator_at_once(count: int) -> int:
    """Each verdict sent at once (`flush_interval=0`)."""
    with _open(count, interval=0) as kext:
        for request in kext:
            request.accept()
        return kext.counters().events["verdict_applied"]


def batch_objects(count: int) -> int:
    """Batches, and the object of each request in them."""
    with _open(count) as kext:
        for batch in kext.batches():
            for request in batch:
                if request.remote_port == 80:
                    request.drop()
                else:
                    request.accept()
        return kext.counters().events["verdict_applied"]


def _rules() -> pk.Policy:
    """A hundred rules of networks and ports, few of which match."""
    networks = [
        pk.Rule(pk.Verdict.DROP, remote=[f"{a}.{b}.0.0/16", f"{a}.{b + 16}.{a}.0/24"])
        for a in (3, 17, 44, 91, 203)
        for b in range(10)
    ]
    ports = [
        pk.Rule(pk.Verdict.BLOCK, protocol="udp", remote_port=[port, f"{port + 20}-{port + 29}"])
        for port in range(20_000, 45_000, 500)
    ]
    return pk.Policy([*networks, *ports], default=pk.Verdict.ACCEPT)


def rules(count: int) -> int:
    """A policy of a hundred rules over batches."""
    policy = _rules()
    if len(policy) != 100:
        raise SystemExit(f"{len(policy)} rules are not a hundred")
    with _open(count) as kext:
        policy.run(kext)
        return kext.counters().events["verdict_applied"]


def rules_asked(count: int) -> int:
    """The same, with each miss asked for in Python."""
    policy = pk.Policy(_rules().rules, otherwise=lambda _: pk.Verdict.ACCEPT)
    with _open(count) as kext:
        policy.run(kext)
        return kext.counters().events["verdict_applied"]


def awaited(count: int) -> int:
    """`async for` over single requests: one attribute read, one verdict each."""

    async def main() -> int:
        async with pk.open_async(f"synthetic:{count}") as kext:
            async for request in kext:
                if request.remote_port == 80:
                    request.drop()
                else:
                    request.accept()
            return kext.counters().events["verdict_applied"]

    return asyncio.run(main())


def awaited_batches(count: int) -> int:
    """`async for` over batches, decided with NumPy."""

    async def main() -> int:
        decided = 0
        async with pk.open_async(f"synthetic:{count}") as kext:
            async for batch in kext.batches():
                verdicts = np.where(batch.remote_port == 80, np.uint8(4), np.uint8(2))
                outcomes = batch.set_verdicts(verdicts)
                decided += int(len(outcomes) - np.count_nonzero(outcomes))
        return decided

    return asyncio.run(main())


WAYS = [
    Way("arrays", "arrays: receive, decide with NumPy, set", 3_000_000, 2_000_000, arrays),
    Way("temporary", "arrays: the same, verdicts not cached", None, 2_000_000, arrays_temporary),
    Way("scalar", "arrays: one verdict for each batch", None, 2_000_000, scalar),
    Way("rules", "rules: a hundred over batches", 1_500_000, 2_000_000, rules),
    Way("rules-asked", "rules: each miss asked for in Python", None, 500_000, rules_asked),
    Way("iterator", "iterator: one attribute, one verdict", 600_000, 2_000_000, iterator),
    Way("payload", "iterator: whole 512-byte payloads", 300_000, 1_000_000, iterator_payload),
    Way("objects", "batches: the object of each request", None, 1_000_000, batch_objects),
    Way("at-once", "iterator: each verdict sent at once", None, 500_000, iterator_at_once),
    Way("asyncio", "asyncio: one attribute, one verdict", 150_000, 1_000_000, awaited),
    Way("asyncio-arrays", "asyncio: batches as arrays", None, 2_000_000, awaited_batches),
]
"""In the order in which they are told."""

FLAT = 10_000_000
"""Requests over which memory has to stay flat."""


def measured(way: Way, runs: int) -> list[float]:
    """Requests a second of each run; the first, which warms up, is not counted."""
    rates = []
    for number in range(runs + 1):
        begun = time.perf_counter()
        decided = way.run(way.count)
        elapsed = time.perf_counter() - begun
        if decided != way.count:
            raise SystemExit(f"{way.name}: {decided:,} of {way.count:,} requests were decided")
        if number > 0:
            rates.append(decided / elapsed)
    return rates


def memory() -> tuple[int, int]:
    """Peak memory in KiB after a tenth of the requests, and after all of them."""

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    iterator(FLAT // 10)
    before = peak()
    iterator(FLAT)
    return before, peak()


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    model = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        names = [line for line in cpus.read_text("utf-8").splitlines() if "model name" in line]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "version": pk.__version__,
    }


def main() -> int:
    """Measure, print the table, and write the same as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", choices=[*(way.name for way in WAYS), []], metavar="NAME"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--runs", type=int, default=5, help="runs of each path (default: 5)")
    parser.add_argument("--no-memory", action="store_true", help="leave out the ten million")
    options = parser.parse_args()

    if hasattr(os, "sched_setaffinity"):
        core = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"{'path':<42}{'requests/s':>12}{'ns each':>9}{'ratio':>8}{'target':>12}{'reached':>9}")
    figures: dict[str, object] = {}
    first: float | None = None
    for way in WAYS:
        if options.names and way.name not in options.names:
            continue
        rates = measured(way, options.runs)
        rate = statistics.median(rates)
        first = first or rate
        target = f"{way.target:,}" if way.target else "-"
        reached = f"{rate / way.target:.2f}" if way.target else "-"
        print(
            f"{way.about:<42}{rate:>12,.0f}{1e9 / rate:>9.0f}{rate / first:>8.2f}"
            f"{target:>12}{reached:>9}",
            flush=True,
        )
        figures[way.name] = {"median": rate, "runs": rates, "target": way.target}
    result: dict[str, object] = {"machine": about, "paths": figures}
    if not options.no_memory:
        before, after = memory()
        print(
            f"memory: at most {before / 1024:,.1f} MiB over {FLAT // 10:,} requests, "
            f"{after / 1024:,.1f} MiB over {FLAT:,}"
        )
        result["memory_kib"] = {"tenth": before, "all": after}
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        print(f"written: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
