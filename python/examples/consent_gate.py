"""Ask a person before a service is used for the first time; nothing else waits for the answer.

    python python/examples/consent_gate.py replay:tests/captures/web.pcapng --seconds 20

A service is a protocol and a remote port. Its packets are held from the first one on until the
person has answered, for at most so many seconds; meanwhile everything that is known is decided at
once. The answer stands for all flows of the service. Without one, the packets that wait are
blocked, and the next one raises the question again.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable

import portmaster_kext as pk

Service = tuple[int, int]
"""Protocol and remote port."""

Ask = Callable[[str], Awaitable[bool]]
"""Puts a question to a person, and waits for the answer."""

NAMES = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}


class Gate:
    """Holds what nobody has answered for, and asks one question at a time."""

    def __init__(self, kext: pk.AsyncKext, ask: Ask, seconds: float) -> None:
        self.kext = kext
        self.ask = ask
        self.seconds = seconds
        self.answers: dict[Service, pk.Verdict] = {}
        self.waiting: dict[Service, list[pk.VerdictRequest]] = {}
        self.questions: asyncio.Queue[Service | None] = asyncio.Queue()
        self.outcomes: Counter[str] = Counter()

    async def run(self) -> None:
        """Decide the requests of the session until it ends, and every question is answered."""
        asking = asyncio.create_task(self.ask_all())
        try:
            async for request in self.kext:
                self.meet(request)
            self.questions.put_nowait(None)
            await asking
        finally:
            asking.cancel()

    def meet(self, request: pk.VerdictRequest) -> None:
        """Decide a request, or put it to the others that wait for the same answer."""
        service = (request.protocol, request.remote_port)
        if service in self.answers:
            self.decide([request], self.answers[service])
        elif service in self.waiting:
            self.waiting[service].append(request)
        else:
            self.waiting[service] = [request]
            self.questions.put_nowait(service)

    async def ask_all(self) -> None:
        """Ask question after question."""
        while (service := await self.questions.get()) is not None:
            first = self.waiting[service][0]
            name = NAMES.get(service[0], f"protocol {service[0]}")
            question = f"{name} port {service[1]}, first to {first.remote_address}"
            try:
                allowed = await asyncio.wait_for(self.ask(question), self.seconds)
            except asyncio.TimeoutError:
                # For these packets alone: the next one asks again.
                self.decide(self.waiting.pop(service), pk.Verdict.BLOCK, permanent=False)
                self.outcomes["unanswered"] += 1
                continue
            verdict = pk.Verdict.ACCEPT if allowed else pk.Verdict.BLOCK
            self.answers[service] = verdict
            self.decide(self.waiting.pop(service), verdict)

    def decide(
        self, requests: list[pk.VerdictRequest], verdict: pk.Verdict, permanent: bool = True
    ) -> None:
        """Set one verdict for all of these. Some may have been held for too long; that is told."""
        ids = [request.id for request in requests]
        for code in self.kext.set_verdicts(ids, verdict, permanent).tolist():
            outcome = pk.Outcome(code)
            self.outcomes[str(verdict if outcome is pk.Outcome.APPLIED else outcome)] += 1


class Person:
    """Whoever sits at the terminal.

    A line cannot be waited for in an event loop on every system, and reading one cannot be
    cancelled. So a thread reads a line for each question, and a line that comes after its question
    was given up is not taken for an answer to the next one.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.asked: queue.SimpleQueue[asyncio.Future[str]] = queue.SimpleQueue()
        # A daemon: nothing can end its wait for a line.
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        """What the thread does."""
        while True:
            future = self.asked.get()
            line = sys.stdin.readline()
            try:
                self.loop.call_soon_threadsafe(self.hear, future, line)
            except RuntimeError:
                return  # the loop has been closed

    def hear(self, future: asyncio.Future[str], line: str) -> None:
        """Take a line for the answer to its question, if that still stands."""
        if not future.done():
            future.set_result(line)
        elif line:
            print("  (too late for that question)", flush=True)

    async def ask(self, question: str) -> bool:
        """Whether the answer begins with `y`; at the end of the input it is no."""
        print(f"Allow {question}? [y/n]", flush=True)
        future: asyncio.Future[str] = self.loop.create_future()
        self.asked.put(future)
        return (await future).strip().lower().startswith("y")


async def main(arguments: list[str] | None = None) -> None:
    """Guard a device until it ends."""
    parser = argparse.ArgumentParser(description="Ask a person about each service.")
    parser.add_argument("device", help="such as replay:FILE")
    parser.add_argument("--seconds", type=float, default=20, help="to answer (default: 20)")
    options = parser.parse_args(arguments)
    # Thousands may wait while one question is open. They are held for longer than an answer takes.
    capacities = pk.Capacities(packets=16_384)
    config = pk.Config(hold_limit_ms=600_000, hold_limit=pk.FallbackPolicy.BLOCK)
    async with pk.open_async(options.device, capacities=capacities, config=config) as kext:
        gate = Gate(kext, Person().ask, options.seconds)
        await gate.run()
        for outcome, count in sorted(gate.outcomes.items()):
            print(f"{outcome}: {count:,}")
    print(kext.counters())


if __name__ == "__main__":
    asyncio.run(main())
