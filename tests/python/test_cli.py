"""The command line: what it prints, its exit statuses, its messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import builders
import portmaster_kext as pk
import pytest
from builders import datagram, frame, header, record, request, syn, syn_ack

CAPTURES = Path(__file__).parents[1] / "captures"

REQUEST_KEYS = [
    "event",
    "id",
    "time",
    "direction",
    "version",
    "protocol",
    "local",
    "local_port",
    "remote",
    "remote_port",
    "process_id",
    "size",
    "verdict",
    "permanent",
]
SUMMARY_KEYS = [
    "event",
    "records",
    "seen",
    "permitted",
    "blocked",
    "dropped",
    "redirected",
    "held",
    "requests",
    "injected",
    "reasons",
    "wall_s",
]


@pytest.fixture
def capture(tmp_path):
    """A capture with a web flow of three packets, a telnet flow and a query."""
    packets = [syn(80), syn_ack(80), request(80, b"GET / HTTP/1.1\r\n"), syn(23), datagram(53)]
    return builders.write(tmp_path, *packets)


@pytest.fixture
def policy(tmp_path):
    """Writes a policy file; its path."""

    def policy(text: str) -> str:
        path = tmp_path / "policy.py"
        path.write_text(f"import portmaster_kext as pk\n{text}\n", "utf-8")
        return str(path)

    return policy


def lines(done: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def summary_of(done: subprocess.CompletedProcess[str]) -> dict:
    """The last line, checked for balance."""
    summary = lines(done)[-1]
    assert summary["event"] == "summary"
    ends = ("permitted", "blocked", "dropped", "redirected", "held")
    assert summary["seen"] == sum(summary[end] for end in ends)
    assert sum(summary["reasons"].values()) == summary["seen"]
    assert summary["held"] == 0
    return summary


def test_version(run):
    assert run("version").stdout.startswith(f"portmaster-kext {pk.__version__}")


def test_help_names_everything(run):
    assert "replay" in run("--help").stdout
    text = run("replay", "--help").stdout
    for option in (
        "--policy",
        "--default",
        "--local",
        "--output",
        "--format",
        "--realtime",
        "--ask-all",
        "Exit status",
    ):
        assert option in text


def test_jsonl_has_exactly_these_keys_in_this_order(run, capture):
    *requests, summary = lines(run("replay", capture, "--format", "jsonl"))
    assert len(requests) == 3
    for line in requests:
        assert list(line) == REQUEST_KEYS
    assert list(summary)[: len(SUMMARY_KEYS)] == SUMMARY_KEYS


def test_jsonl_says_what_happened(run, capture):
    done = run("replay", capture, "--format", "jsonl", "--local", builders.CLIENT)
    first = lines(done)[0]
    assert first == {
        "event": "request",
        "id": first["id"],
        "time": builders.START,
        "direction": "outbound",
        "version": 4,
        "protocol": 6,
        "local": builders.CLIENT,
        "local_port": 50_000,
        "remote": builders.SERVER,
        "remote_port": 80,
        "process_id": None,
        "size": 40,
        "verdict": "accept",
        "permanent": True,
    }
    summary = summary_of(done)
    assert (summary["records"], summary["seen"], summary["requests"]) == (5, 5, 3)
    assert summary["permitted"] == 5
    assert summary["reasons"] == {"permitted_cache": 2, "permitted_verdict": 3}
    assert isinstance(summary["wall_s"], float)


def test_times_keep_their_nanoseconds(run, tmp_path):
    path = tmp_path / "nanos.pcap"
    data = bytearray(builders.pcap(syn(80)))
    data[:4] = (0xA1B23C4D).to_bytes(4, "little")
    data[28:32] = (123_456_789).to_bytes(4, "little")
    path.write_bytes(data)
    text = run("replay", path, "--format", "jsonl").stdout.splitlines()[0]
    time_ = json.loads(text, parse_float=Decimal)["time"]
    assert time_ == Decimal("1700000000.123456789")


def test_two_runs_are_equal_but_for_the_wall_clock(run, capture):
    for format_ in ("jsonl", "table"):
        first, second = (
            re.sub(
                r'("wall_s":|took )[\d.e-]+', "", run("replay", capture, "--format", format_).stdout
            )
            for _ in range(2)
        )
        assert first == second


def test_the_table_shows_flows_counters_and_which_side_is_local(run, capture):
    text = run("replay", capture).stdout
    row = next(line for line in text.splitlines() if ":80 " in line)
    assert row.split()[:4] == ["TCP", "192.0.2.10:50000", "198.51.100.20:80", "accept"]
    sizes = sum(map(len, (syn(80), syn_ack(80), request(80, b"GET / HTTP/1.1\r\n"))))
    assert row.split()[4:] == ["3", str(sizes)]
    assert "seen 5 = permitted 5" in text
    assert re.search(r"local: .*inferred", text)
    assert run("replay", capture).stderr == "", "no bar without a terminal"
    assert "inferred" not in run("replay", capture, "--local", builders.CLIENT).stdout


def test_single_packets_are_in_the_table(run, capture, policy):
    path = policy("def decide(request, kext):\n    request.drop(permanent=False)")
    text = run("replay", capture, "--policy", path).stdout
    row = next(line for line in text.splitlines() if ":80 " in line)
    assert "drop (each)" in row
    assert row.split()[-2] == "3"


@pytest.mark.parametrize(
    ("default", "sum_"), [("accept", "permitted"), ("block", "blocked"), ("drop", "dropped")]
)
def test_the_default_verdict(run, capture, default, sum_):
    done = run("replay", capture, "--default", default, "--format", "jsonl")
    assert summary_of(done)[sum_] == 5
    assert {line.get("verdict") for line in lines(done)[:-1]} == {default}


def test_a_policy_decides_and_none_is_the_default(run, capture, policy):
    path = policy(
        "def decide(request, kext):\n"
        "    if request.remote_port == 23:\n"
        "        return pk.Verdict.BLOCK\n"
        "    if request.remote_port == 53:\n"
        "        request.drop(permanent=False)\n"
        "    return None"
    )
    done = run("replay", capture, "--policy", path, "--format", "jsonl")
    verdicts = {
        line["remote_port"]: (line["verdict"], line["permanent"]) for line in lines(done)[:-1]
    }
    assert verdicts == {80: ("accept", True), 23: ("block", True), 53: ("drop", False)}
    summary = summary_of(done)
    assert (summary["permitted"], summary["blocked"], summary["dropped"]) == (3, 1, 1)
    assert summary["injected"] == 1, "the reset for telnet"


def test_a_policy_may_set_and_return_the_same_verdict(run, capture, policy):
    path = policy("def decide(request, kext):\n    request.drop()\n    return pk.Verdict.DROP")
    summary = summary_of(run("replay", capture, "--policy", path, "--format", "jsonl"))
    assert summary["dropped"] == 5


def test_a_policy_may_use_dataclasses_and_payload(run, capture, policy):
    path = policy(
        "import dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Rule:\n"
        "    port: 'int' = 23\n"
        "def decide(request, kext):\n"
        "    assert len(kext.get_payload(request.id)) == request.size\n"
        "    return pk.Verdict.DROP if request.remote_port == Rule().port else None"
    )
    summary = summary_of(run("replay", capture, "--policy", path, "--format", "jsonl"))
    assert summary["dropped"] == 1


FAILING = {
    "raises": ("    raise RuntimeError('mine')", "RuntimeError: mine"),
    "exits-for-good": ("    raise BaseException('mine')", "BaseException: mine"),
    "bad-repr": (
        "    class Odd:\n        def __repr__(self):\n            1 / 0\n    return Odd()",
        "(Odd)",
    ),
    "wrong-arity": ("    decide(request)", "missing 1 required positional argument"),
    "exits": ("    raise SystemExit(0)", "SystemExit"),
    "string": ("    return 'accept'", "decide() returned 'accept' (str)"),
    "number": ("    return 99", "decide() returned 99 (int)"),
    "true": ("    return True", "decide() returned True (bool)"),
    "twice": ("    request.drop()\n    return pk.Verdict.ACCEPT", "one request gets one verdict"),
    "closes": ("    kext.close()", "closed"),
    "wrong-verdict": ("    kext.set_verdict(request.id, 1)", "InvalidVerdictError"),
}


@pytest.mark.parametrize(("body", "says"), FAILING.values(), ids=FAILING.keys())
@pytest.mark.parametrize("format_", ["jsonl", "table"])
def test_a_failing_policy_still_gives_a_balanced_summary(run, capture, policy, body, says, format_):
    path = policy(f"def decide(request, kext):\n{body}")
    done = run("replay", capture, "--policy", path, "--format", format_, check=1)
    assert says in done.stderr
    assert "portmaster_kext/cli" not in done.stderr, "only the policy's own frames"
    if format_ == "jsonl":
        requests = [event for event in lines(done) if event["event"] == "request"]
        assert summary_of(done)["requests"] == len(requests) >= 1, "each request is told"
    else:
        assert re.search(r"seen \d+ = ", done.stdout)


@pytest.mark.parametrize("format_", ["jsonl", "table"])
def test_a_policy_that_closes_behind_the_back_of_the_loop(run, tmp_path, policy, format_):
    slow = builders.slow(tmp_path)
    path = policy(
        "import threading\ndef decide(request, kext):\n    threading.Timer(0.2, kext.close).start()"
    )
    arguments = ("--policy", path, "--realtime", "--format", format_)
    assert "policy closed the session" in run("replay", slow, *arguments, check=1).stderr


def test_a_traceback_points_into_the_policy(run, capture, policy):
    path = policy("def decide(request, kext):\n    return 1 / 0")
    stderr = run("replay", capture, "--policy", path, check=1).stderr
    assert "policy.py" in stderr
    assert "line 3, in decide" in stderr
    assert "ZeroDivisionError" in stderr


UNUSABLE = {
    "no-decide": ("x = 1", "does not define decide"),
    "not-callable": ("decide = 5", "decide is a int, not a function"),
    "syntax": ("def decide(:", "SyntaxError"),
    "raises": ("1 / 0", "ZeroDivisionError"),
    "exits": ("raise SystemExit(0)", "SystemExit"),
    "import": ("import no_such_module_at_all", "ModuleNotFoundError"),
    "null-byte": ("x = '\0'", "cannot be loaded"),
}


@pytest.mark.parametrize(("text", "says"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_file_that_is_no_policy(run, capture, policy, text, says):
    path = policy(text)
    done = run("replay", capture, "--policy", path, check=2)
    assert says in done.stderr
    assert path in done.stderr
    assert "portmaster_kext/cli" not in done.stderr, "only the policy's own frames"
    assert done.stdout == ""


def test_a_missing_policy(run, capture):
    done = run("replay", capture, "--policy", "missing.py", check=2)
    assert "missing.py" in done.stderr
    assert "No such file" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["replay"],
        ["replay", "x", "--default", "maybe"],
        ["replay", "x", "--format", "xml"],
        ["replay", "x", "--local", "10.0.0.0/99"],
        ["replay", "x", "y"],
        ["replay", "x", "--real"],
    ],
)
def test_bad_arguments(run, arguments):
    done = run(*arguments, check=2)
    assert done.stderr.startswith("usage:")


def test_a_bad_network_is_named(run):
    assert "10.0.0.0/99" in run("replay", "x", "--local", "10.0.0.0/99", check=2).stderr


@pytest.mark.parametrize("data", [b"", b"text\n", header()[:9]], ids=["empty", "text", "cut"])
def test_bad_input(run, tmp_path, data):
    path = tmp_path / "bad.pcap"
    path.write_bytes(data)
    done = run("replay", path, check=2)
    assert "bad.pcap" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_missing_capture(run, tmp_path):
    assert "missing.pcap" in run("replay", tmp_path / "missing.pcap", check=2).stderr


def test_a_truncated_record_gives_the_summary_of_what_was_read(run, tmp_path):
    path = tmp_path / "cut.pcap"
    path.write_bytes(header() + record(frame(syn(80))) + record(frame(syn(81)))[:-1])
    done = run("replay", path, "--format", "jsonl", check=2)
    assert "cut.pcap" in done.stderr
    assert "truncated" in done.stderr
    assert summary_of(done)["seen"] == 1


def test_an_output_that_cannot_be_written(run, capture, tmp_path):
    done = run("replay", capture, "--output", tmp_path / "no" / "out.pcapng", check=2)
    assert "out.pcapng" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_output_replaces_neither_capture_nor_policy(run, capture, policy):
    path = policy("def decide(request, kext):\n    return None")
    for option, file in (("capture", capture), ("policy", path)):
        with open(file, "rb") as opened:
            before = opened.read()
        done = run("replay", capture, "--policy", path, "--output", file, check=2)
        assert option in done.stderr
        with open(file, "rb") as opened:
            assert opened.read() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")
@pytest.mark.parametrize("arguments", [["version"], ["replay"]])
def test_a_full_disk_is_said(capture, arguments):
    command = [sys.executable, "-m", "portmaster_kext", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command + [capture] * (arguments == ["replay"]),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("portmaster-kext: the output cannot be written: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("at_load", [True, False])
def test_an_interrupt_inside_the_policy(run, capture, policy, at_load):
    text = "raise KeyboardInterrupt" if at_load else "def decide(*_):\n    raise KeyboardInterrupt"
    done = run("replay", capture, "--policy", policy(text), "--format", "jsonl", check=130)
    assert done.stderr == "portmaster-kext: interrupted\n"
    if not at_load:
        assert summary_of(done)["seen"] == 1


def test_the_output_holds_what_left(run, capture, policy, tmp_path):
    scapy = pytest.importorskip("scapy.all")
    path = policy(
        "def decide(request, kext):\n"
        "    return {23: pk.Verdict.BLOCK, 53: pk.Verdict.DROP}.get(request.remote_port)"
    )
    out = tmp_path / "out.pcapng"
    run("replay", capture, "--policy", path, "--output", out, "--local", builders.CLIENT)
    left = [bytes(packet[scapy.IP]) for packet in scapy.rdpcap(str(out))]
    web = [syn(80), syn_ack(80), request(80, b"GET / HTTP/1.1\r\n")]
    assert [packet for packet in left if packet in web] == web, "unchanged and in order"
    (reset,) = (scapy.IP(packet) for packet in left if packet not in web)
    assert (reset.src, reset.dst) == (builders.SERVER, builders.CLIENT)
    assert "R" in str(reset[scapy.TCP].flags)


def test_a_reader_that_goes_away_is_no_error_message(capture):
    command = [sys.executable, "-m", "portmaster_kext", "replay", capture]
    with subprocess.Popen(
        [*command, "--format", "jsonl"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 141


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in another way there")
def test_ctrl_c_gives_the_summary(tmp_path):
    command = [sys.executable, "-m", "portmaster_kext", "replay", builders.slow(tmp_path)]
    with subprocess.Popen(
        [*command, "--format", "jsonl", "--realtime"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert json.loads(process.stdout.readline())["remote_port"] == 80
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert json.loads(out)["seen"] == 1


@pytest.fixture
def on_a_terminal(tmp_path):
    """Replays three requests under a slow policy; what standard error shows on a terminal."""
    pty = pytest.importorskip("pty")
    path = builders.write(tmp_path, *(syn(80) for _ in range(3)))

    def on_a_terminal(last: str, *options: str, check: int = 0) -> str:
        slow = tmp_path / "slow.py"
        slow.write_text(
            "import time\n"
            "count = 0\n"
            "def decide(request, kext):\n"
            "    global count\n"
            "    count += 1\n"
            "    time.sleep(0.15)\n"
            f"    {last}\n"
            "    request.accept(permanent=False)\n"
        )
        master, terminal = pty.openpty()
        command = [sys.executable, "-m", "portmaster_kext", "replay", path, "--policy", str(slow)]
        done = subprocess.run(
            [*command, *options], stdout=subprocess.DEVNULL, stderr=terminal, timeout=30
        )
        os.close(terminal)
        shown = b""
        try:
            while chunk := os.read(master, 65_536):
                shown += chunk
        except OSError:  # how Linux tells the end
            pass
        os.close(master)
        assert done.returncode == check
        return shown.decode()

    return on_a_terminal


ERASED = "\r\x1b[K"


def test_a_progress_bar_on_a_terminal(on_a_terminal):
    shown = on_a_terminal("pass")
    assert re.search(r"\[#+ *\] +\d+%", shown)
    assert shown.endswith(ERASED), "it takes itself away"


def test_the_bar_is_gone_before_an_error_is_told(on_a_terminal):
    shown = on_a_terminal("assert count < 3", check=1)
    assert re.search(r"\[#+ *\] +\d+%", shown)
    assert ERASED + "portmaster-kext: Traceback" in shown
    assert shown.count(ERASED) == 1


def test_no_bar_among_the_lines_of_a_program(on_a_terminal):
    assert on_a_terminal("pass", "--format", "jsonl") == ""


RULES = """
[[rule]]
name = "telnet"
verdict = "block"
remote_port = 23

[[rule]]
verdict = "drop"
permanent = false
protocol = "udp"
"""


@pytest.fixture
def rules(tmp_path):
    """Writes a rule file; its path."""

    def rules(text: str = RULES) -> str:
        path = tmp_path / "rules.toml"
        path.write_text(text, "utf-8")
        return str(path)

    return rules


AS_RULES = (
    "def decide(request, kext):\n"
    "    if request.remote_port == 23:\n"
    "        return pk.Verdict.BLOCK\n"
    "    if request.protocol == 17:\n"
    "        request.drop(permanent=False)\n"
    "    return None"
)


def comparable(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The output without the wall clock, and without what depends on the size of batches.

    That is ids, and whether a packet met its flow's verdict in the cache or waited for it.
    """
    text = re.sub(r'("wall_s":|took |"id":)[\d.e-]+', "", done.stdout)
    if text.startswith("{"):
        return re.sub(r'"(permitted|blocked|dropped)_(cache|verdict)":\d+,?', "", text).splitlines()
    return [line for line in text.splitlines() if not re.search("_(cache|verdict) ", line)]


@pytest.mark.parametrize("format_", ["jsonl", "table"])
@pytest.mark.parametrize("permanent", [True, False])
def test_a_rule_file_says_the_same_as_the_function_that_it_replaces(
    run, policy, rules, format_, permanent
):
    # Only with verdicts that stand it may decide in batches.
    change = ("false", "true") if permanent else ("", "")
    paths = (rules(RULES.replace(*change)), policy(AS_RULES.replace("False", str(permanent))))
    for name in ("web.pcapng", "dns.pcap", "scan.pcap", "icmp.pcap"):
        capture = CAPTURES / name
        arguments = ("--format", format_, "--default", "block")
        by_rules, by_python = (
            run("replay", capture, "--policy", path, *arguments) for path in paths
        )
        assert by_rules.stderr == by_python.stderr == ""
        assert comparable(by_rules) == comparable(by_python), name


def test_a_rule_file_writes_the_same_packets(run, capture, policy, rules, tmp_path):
    written = []
    for path in (rules(), policy(AS_RULES)):
        out = tmp_path / "out.pcapng"
        run("replay", capture, "--policy", path, "--output", out)
        written.append(out.read_bytes())
    assert written[0] == written[1]


def test_the_default_of_a_rule_file_goes_first(run, capture, rules):
    path = rules('default = { verdict = "drop", permanent = false }\n' + RULES)
    done = run("replay", capture, "--policy", path, "--format", "jsonl", "--default", "block")
    verdicts = {line["remote_port"]: line["verdict"] for line in lines(done)[:-1]}
    assert verdicts == {80: "drop", 23: "block", 53: "drop"}
    assert summary_of(done)["dropped"] == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[rule]]\nverdict = 5\n", "line 2, column 11: rule[0]: verdict: 5 is no verdict"),
        ("[[rule]]\n", "rule[0]: the verdict is missing"),
        ("nonsense", "this is not TOML"),
        ("", "there is no rule: write [[rule]]"),
    ],
)
def test_a_file_of_bad_rules(run, capture, rules, text, says):
    path = rules(text)
    done = run("replay", capture, "--policy", path, check=2)
    assert f"portmaster-kext: policy {path}: " in done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    done = run("replay", capture, "--policy", "missing.TOML", check=2)
    assert "policy missing.TOML: cannot be read: No such file" in done.stderr


def test_a_truncated_capture_under_rules(run, tmp_path, rules):
    path = tmp_path / "cut.pcap"
    path.write_bytes(header() + record(frame(syn(80))) + record(frame(syn(81)))[:-1])
    done = run("replay", path, "--policy", rules(), "--format", "jsonl", check=2)
    assert "truncated" in done.stderr
    assert summary_of(done)["seen"] == 1
