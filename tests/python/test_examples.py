"""Each program of `python/examples` runs, and does what its first lines say."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import portmaster_kext as pk
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "python" / "examples"
WEB = "replay:tests/captures/web.pcapng"
DNS = "replay:tests/captures/dns.pcap"


def run(name: str, *arguments: object, stdin: str = "", check: int = 0) -> list[str]:
    """Run an example as a person would, and return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == check, done.stderr
    assert bool(done.stderr) == bool(check), done.stderr
    return (done.stderr if check else done.stdout).splitlines()


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def balanced(lines: list[str]) -> dict[str, int]:
    """The sums of the counters that are printed."""
    (line,) = (line for line in lines if line.startswith("seen "))
    numbers = {name: int(n.replace(",", "")) for name, n in re.findall(r"(\w+) ([\d,]+)", line)}
    seen = numbers.pop("seen")
    assert seen == sum(numbers.values()), line
    assert numbers["held"] == 0
    return numbers


def test_every_example_is_run_here():
    text = Path(__file__).read_text("utf-8")
    others = (Path(__file__).parent / "test_package.py").read_text("utf-8")
    for example in EXAMPLES.iterdir():
        if example.suffix in (".py", ".toml"):
            assert f'"{example.name}"' in text + others, example.name


def test_the_consent_gate_asks_once_for_each_service():
    lines = run("consent_gate.py", WEB, stdin="y\nn\nyes\nn\n")
    questions = [line for line in lines if line.startswith("Allow")]
    assert questions[0] == "Allow UDP port 53, first to 198.51.100.20? [y/n]"
    services = [question.partition(",")[0] for question in questions]
    assert len(set(services)) == len(services) == 6
    assert "accept: 18" in lines
    assert "block: 23" in lines
    assert balanced(lines)["permitted"] > 0


def test_thousands_wait_while_one_question_is_open(monkeypatch):
    gate = load("consent_gate", monkeypatch)
    held: list[int] = []

    async def main() -> pk.Counters:
        capacities = pk.Capacities(packets=16_384)
        async with pk.open_async("synthetic:3000", capacities=capacities) as kext:

            async def ask(question: str) -> bool:
                # Long enough for all the others to be received meanwhile.
                while not held and kext.counters().seen < 3_000:
                    await asyncio.sleep(0.001)
                held.append(kext.counters().held)
                return "53" not in question

            await gate.Gate(kext, ask, 30).run()
        return kext.counters()

    counters = asyncio.run(main())
    assert held[0] == 3_000
    assert held == sorted(held, reverse=True)
    assert len(held) > 1
    assert counters.permitted + counters.blocked == 3_000
    assert min(counters.permitted, counters.blocked) > 0


def test_a_question_without_an_answer_is_given_up_and_asked_again(monkeypatch):
    gate = load("consent_gate", monkeypatch)
    asked: list[str] = []

    async def main() -> tuple[pk.Counters, dict[str, int]]:
        async with pk.open_async("synthetic:3000", max_requests=100) as kext:

            async def ask(question: str) -> bool:
                asked.append(question.partition(",")[0])
                if asked.count(asked[-1]) == 1:
                    await asyncio.Event().wait()
                return True

            one = gate.Gate(kext, ask, 0.01)
            async for request in kext:
                one.meet(request)
                if not one.waiting:
                    continue
                # Not more than one question at a time: the next request after the answer.
                one.questions.put_nowait(None)
                await one.ask_all()
        return kext.counters(), one.outcomes

    counters, outcomes = asyncio.run(main())
    services = set(asked)
    assert sorted(asked) == sorted([*services, *services]), "each asked again, once"
    assert outcomes["unanswered"] == outcomes["block"] == len(services)
    assert counters.blocked == len(services)
    assert counters.permitted == 3_000 - len(services)


def test_a_late_answer_is_not_taken_for_the_next_question():
    command = [sys.executable, EXAMPLES / "consent_gate.py", WEB, "--seconds", "0.2"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline().startswith("Allow UDP port 53")
        # The time for it goes by: the next question is there.
        second = process.stdout.readline()
        assert second.startswith("Allow TCP port 80")
        process.stdin.write("y\n")
        process.stdin.flush()
        rest = process.stdout.read().splitlines()
        assert "  (too late for that question)" in rest
        assert not any(line.startswith("accept") for line in rest)
        process.stdin.close()
        assert process.wait(20) == 0


def test_the_dns_filter_blocks_names_and_what_is_below_them():
    lines = run("dns_filter.py", DNS, "big.example.test", "TEST.")
    rows = [line.split() for line in lines if re.match(r"(block|accept) ", line)]
    verdicts = {name: verdict for verdict, _, name in rows}
    assert verdicts["www.example.test"] == verdicts["big.example.test"] == "block"
    assert verdicts["20.100.51.198.in-addr.arpa"] == "accept"
    assert balanced(lines)["blocked"] > 0
    unfiltered = run("dns_filter.py", DNS, "ample.test")
    assert not any(line.startswith("block ") for line in unfiltered), "no part of a label"


def test_the_dns_filter_takes_any_bytes(monkeypatch):
    dns = load("dns_filter", monkeypatch)
    header = b"\x45" + bytes(27) + b"\0\1\1\0\0\1\0\0\0\0\0\0"
    assert dns.question(memoryview(header + b"\3www\7Example\0")) == "www.example"
    for broken in (b"", b"\3ww", b"\xc0\x0c", b"\3www", b"\1a" * 200, b"\x40" + b"a" * 70):
        assert dns.question(memoryview(header + broken)) is None
    for length in range(len(header)):
        assert dns.question(memoryview(header[:length])) is None


def test_the_dns_filter_finds_the_names_that_scapy_finds(monkeypatch):
    scapy = pytest.importorskip("scapy.all")
    dns = load("dns_filter", monkeypatch)
    found = 0
    for packet in scapy.rdpcap(str(ROOT / "tests" / "captures" / "dns.pcap")):
        ip = packet.getlayer(scapy.IP) or packet.getlayer(scapy.IPv6)
        if ip is None or scapy.UDP not in packet or packet[scapy.UDP].dport != 53:
            continue
        name = packet[scapy.DNS].qd[0].qname.decode().rstrip(".").lower()
        assert dns.question(memoryview(bytes(ip))) == name
        found += 1
    assert found > 10


def test_the_array_policy_finds_the_scan():
    lines = run("array_policy.py", "replay:tests/captures/scan.pcap")
    assert re.match(r"applied: \d+", lines[0])
    numbers = balanced(lines)
    assert numbers["dropped"] > 500
    assert numbers["permitted"] > 100
    lines = run("array_policy.py", "synthetic:20000")
    assert lines[0] == "applied: 20,000"


def test_the_array_policy_decides_as_a_loop_would(monkeypatch):
    example = load("array_policy", monkeypatch)
    scans, seen = example.Scans(), {}
    with pk.open("replay:tests/captures/scan.pcap") as kext:
        for batch in kext.batches():
            verdicts = example.decide(batch, scans)
            for request in batch:
                seen[request.remote_address] = seen.get(request.remote_address, 0) + 1
            for row, request in enumerate(batch):
                address = request.remote_address
                expected = example.BY_PORT[request.remote_port]
                # The counts after the batch.
                if seen[address] > example.SCAN:
                    expected = pk.Verdict.DROP
                if str(address).startswith(("192.0.2.", "fe80:")):
                    expected = pk.Verdict.ACCEPT
                assert verdicts[row] == expected, request
            batch.set_verdicts(verdicts)


def test_the_export_is_what_others_read(tmp_path):
    pa = pytest.importorskip("pyarrow")
    scapy = pytest.importorskip("scapy.all")
    lines = run("export.py", WEB, tmp_path / "out")
    assert lines[0] == "requests.arrow: 41 rows, 16 columns"
    assert any(line.endswith("IP/UDP/DNS") for line in lines)
    requests = pa.ipc.open_file(tmp_path / "out" / "requests.arrow").read_all()
    assert requests.column("remote_port").to_pylist().count(53) == 15
    sizes = [len(payload) for payload in requests.column("payload").to_pylist()]
    assert sizes == requests.column("size").to_pylist()
    flows = pa.ipc.open_file(tmp_path / "out" / "flows.arrow").read_all()
    assert flows.num_rows == 41
    left = scapy.rdpcap(str(tmp_path / "out" / "left.pcapng"))
    assert f"left.pcapng: {len(left)} packets" in lines


def test_the_rule_file_decides_and_says_what_was_needed(tmp_path):
    lines = run("rule_file.py", WEB, EXAMPLES / "rules.toml")
    hits = dict(re.match(r" *(\d+) ([^(]*)", line).group(2, 1) for line in lines[:4])
    assert {name.strip(): int(count) for name, count in hits.items()} == {
        "the lab": 0,
        "no telnet, no X11": 2,
        "our own resolver stays as it is": 15,
        "no other resolvers": 0,
    }
    assert lines[4] == "    24 by default, of 41"
    assert balanced(lines)["blocked"] > 0
    bad = tmp_path / "bad.toml"
    bad.write_text("[[rule]]\nverdict = 'no'\n", "utf-8")
    (error,) = run("rule_file.py", WEB, bad, check=2)
    assert error.startswith(f"{bad}: line 2, column 11: rule[0]: verdict: ")


def test_the_rule_file_is_a_policy_for_the_command_line(run):
    capture = ROOT / "tests" / "captures" / "web.pcapng"
    done = run("replay", capture, "--policy", EXAMPLES / "rules.toml")
    telnet = [line for line in done.stdout.splitlines() if re.search(r":23\s", line)]
    assert telnet
    assert all(" block " in line for line in telnet)
