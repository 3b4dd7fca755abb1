"""Policies of rules: what they decide, whom they ask, and what they refuse."""

from __future__ import annotations

import asyncio
import ipaddress
import pickle
import threading
from pathlib import Path

import builders
import numpy as np
import portmaster_kext as pk
import pytest
from builders import datagram, syn
from hypothesis import given, settings
from hypothesis import strategies as st

ACCEPT, BLOCK, DROP = pk.Verdict.ACCEPT, pk.Verdict.BLOCK, pk.Verdict.DROP

FILE = """
default = "accept"

[[rule]]
name = "no telnet"
verdict = "block"
protocol = "tcp"
remote_port = [23, "6000-6063"]

[[rule]]
verdict = "drop"
permanent = false
remote = ["198.51.100.0/24", "2001:db8::/32"]
direction = "outbound"
ip_version = 4
local_port = "50000-50003"

[[rule]]
name = "mine"
verdict = "redirect_dns"
local = "192.0.2.10"
process = [1, 4]
"""


def test_the_first_rule_that_matches_decides(opened):
    policy = pk.Policy(
        [
            pk.Rule(BLOCK, name="telnet", protocol="tcp", remote_port=23),
            pk.Rule("drop", permanent=False, remote_port=range(80, 82)),
            pk.Rule(ACCEPT, name="rest of tcp", protocol=6),
        ],
    )
    kext = opened(syn(23), syn(80), syn(443), datagram(53))
    batch = next(kext.batches())
    decisions = policy.decide(batch)
    assert decisions.verdict.tolist() == [3, -4, 2, 0]
    assert decisions.rule.tolist() == [0, 1, 2, pk.NO_RULE]
    assert decisions.outcome.tolist() == [0, 0, 0, pk.Outcome.UNDECIDED]
    assert [array.dtype for array in decisions] == [np.int8, np.uint16, np.uint8]
    counters = kext.counters()
    assert (counters.blocked, counters.dropped, counters.permitted, counters.held) == (1, 1, 1, 1)
    assert dict(policy.hits) == {"telnet": 1, "rule[1]": 1, "rest of tcp": 1}
    assert policy.misses == 1
    batch[3].accept()
    again = policy.decide(batch)
    assert again.outcome.tolist() == [pk.Outcome.ALREADY_DECIDED] * 3 + [pk.Outcome.UNDECIDED]
    assert policy.hits["telnet"] == 2
    assert {flow.remote_port for flow in kext.flows()} == {23, 443, 53}


def test_a_default_decides_misses(opened):
    policy = pk.Policy([pk.Rule(DROP, remote_port=80)], default=pk.Decision(BLOCK, False))
    kext = opened(syn(80), syn(81))
    decisions = policy.decide(next(kext.batches()))
    assert decisions.verdict.tolist() == [4, -3]
    assert decisions.rule.tolist() == [0, pk.NO_RULE]
    assert decisions.outcome.tolist() == [0, 0]
    assert (policy.misses, policy.default) == (1, (BLOCK, False))


def test_misses_are_asked_for_and_the_default_decides_what_is_left(opened):
    asked = []

    def otherwise(request: pk.VerdictRequest):
        asked.append(request.remote_port)
        return {81: DROP, 82: pk.Decision(BLOCK, False), 83: request.drop(permanent=False)}.get(
            request.remote_port
        )

    def decide(**options):
        asked.clear()
        kext = opened(*(syn(port) for port in range(80, 86)))
        policy = pk.Policy([pk.Rule(ACCEPT, remote_port=80)], otherwise=otherwise, **options)
        return kext, policy.decide(next(kext.batches()))

    # The dictionary is made for each request, so each is dropped by the third of its values.
    kext, decisions = decide(default=ACCEPT)
    assert asked == [81, 82, 83, 84, 85]
    assert decisions.outcome.tolist() == [0] + [pk.Outcome.ALREADY_DECIDED] * 5
    assert decisions.verdict.tolist() == [2, 4, -3, 0, 0, 0]
    kext.flush()
    assert kext.counters().dropped == 5


def test_an_answer_decides_and_none_leaves_it_held(opened):
    def otherwise(request: pk.VerdictRequest):
        if request.remote_port == 83:
            request.block()
        return {81: DROP, 82: pk.Decision(BLOCK, False)}.get(request.remote_port)

    packets = [syn(port) for port in range(80, 86)]
    kext = opened(*packets)
    rules = [pk.Rule(ACCEPT, remote_port=80)]
    decisions = pk.Policy(rules, otherwise=otherwise).decide(next(kext.batches()))
    assert decisions.verdict.tolist() == [2, 4, -3, 0, 0, 0]
    undecided = pk.Outcome.UNDECIDED
    assert decisions.outcome.tolist() == [0, 0, 0, undecided, undecided, undecided]
    counters = kext.counters()
    assert (counters.permitted, counters.dropped, counters.blocked, counters.held) == (1, 1, 2, 2)

    kext = opened(*packets)
    policy = pk.Policy(rules, ACCEPT, otherwise)
    decisions = policy.decide(next(kext.batches()))
    assert decisions.verdict.tolist() == [2, 4, -3, 0, 2, 2]
    decided = pk.Outcome.ALREADY_DECIDED
    assert decisions.outcome.tolist() == [0, 0, 0, decided, 0, 0], "what it decided itself stands"
    assert kext.counters().held == 0
    assert repr(policy) == "<Policy of 1 rules, default accept (the flow), otherwise asked>"


def test_an_error_of_the_callable_keeps_the_answers_before_it(opened):
    def otherwise(request: pk.VerdictRequest):
        if request.remote_port == 83:
            raise RuntimeError("mine")
        return DROP

    kext = opened(*(syn(port) for port in range(80, 86)))
    policy = pk.Policy([pk.Rule(ACCEPT, remote_port=[80, 85])], BLOCK, otherwise)
    with pytest.raises(RuntimeError, match="mine"):
        policy.decide(next(kext.batches()))
    counters = kext.counters()
    assert (counters.permitted, counters.dropped, counters.held) == (2, 2, 2)
    assert counters.balanced


@pytest.mark.parametrize("answer", [2, "accept", True, object(), (ACCEPT, True), pk.Decision(2, 1)])
def test_an_answer_that_is_none_is_refused_with_those_that_are(opened, answer):
    kext = opened(syn(80))
    policy = pk.Policy(otherwise=lambda _: answer)
    with pytest.raises(pk.InvalidVerdictError, match=r"the answer for .*Verdict\.ACCEPT"):
        policy.decide(next(kext.batches()))
    assert kext.counters().held == 1


def test_a_loop_over_a_whole_session():
    policy = pk.Policy([pk.Rule(DROP, remote_port=80)], ACCEPT)
    with pk.open("synthetic:3000") as kext:
        assert policy.run(kext, 100) == 3_000
    counters = kext.counters()
    assert counters.dropped == policy.hits["rule[0]"] > 0
    assert counters.permitted == policy.misses


def test_a_loop_over_a_session_of_asyncio_with_tasks_for_misses():
    async def ask(request: pk.VerdictRequest) -> None:
        await asyncio.sleep(0.001 * (request.remote_port % 3))
        request.drop()

    async def main() -> pk.Counters:
        tasks = []
        policy = pk.Policy(
            [pk.Rule(ACCEPT, remote_port=443)],
            otherwise=lambda request: tasks.append(asyncio.ensure_future(ask(request))),
        )
        async with pk.open_async("synthetic:900", capacities=pk.Capacities(packets=4096)) as kext:
            assert await policy.run_async(kext, payload=8) == 900
            await asyncio.gather(*tasks)
        assert kext.counters().permitted == policy.hits["rule[0]"] > 0
        assert len(tasks) == policy.misses
        return kext.counters()

    counters = asyncio.run(main())
    assert counters.permitted + counters.dropped == 900


def test_a_late_verdict_is_an_outcome(opened):
    kext = opened(
        *(datagram(53, source_port=n + 1) for n in range(64)),
        capacities=pk.Capacities(packets=16, packet_bytes=131_072),
    )
    batches = list(kext.batches())
    decisions = pk.Policy(default=ACCEPT).decide(batches[0])
    assert set(decisions.outcome.tolist()) == {pk.Outcome.EVICTED}


def test_a_closed_session_is_said():
    with pk.open("synthetic:10") as kext:
        batch = next(kext.batches())
    for policy in (pk.Policy(default=ACCEPT), pk.Policy([pk.Rule(DROP)], otherwise=lambda _: DROP)):
        with pytest.raises(pk.ClosedError):
            policy.decide(batch)


def test_several_threads_may_use_one_policy():
    policy = pk.Policy([pk.Rule(DROP, name="web", remote_port=80)], ACCEPT)

    def run() -> None:
        with pk.open("synthetic:5000") as kext:
            policy.run(kext)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert policy.hits["web"] + policy.misses == 20_000


def test_rules_of_one_name_are_counted_together(opened):
    rules = [pk.Rule(DROP, name="web", remote_port=80), pk.Rule(DROP, name="web", remote_port=443)]
    policy = pk.Policy(rules)
    policy.decide(next(opened(syn(80), syn(443), syn(1)).batches()))
    assert dict(policy.hits) == {"web": 2}
    with pytest.raises(TypeError):
        policy.hits["web"] = 0


def test_a_condition_is_a_value_or_many(opened):
    address = ipaddress.ip_address(builders.SERVER)
    network = ipaddress.ip_network("198.51.100.0/24")
    matching = [
        pk.Rule(DROP),
        pk.Rule(DROP, protocol="tcp"),
        pk.Rule(DROP, protocol=np.uint8(6)),
        pk.Rule(DROP, protocol={"udp", "tcp"}),
        pk.Rule(DROP, remote=address),
        pk.Rule(DROP, remote=network),
        pk.Rule(DROP, remote=[network, "10.0.0.0/8"]),
        pk.Rule(DROP, remote=(str(n) for n in (network,))),
        pk.Rule(DROP, local="192.0.2.0/24", direction="outbound"),
        pk.Rule(DROP, direction=pk.Direction.OUTBOUND, ip_version=4),
        pk.Rule(DROP, remote_port=80),
        pk.Rule(DROP, remote_port=range(80, 81)),
        pk.Rule(DROP, remote_port="79-80"),
        pk.Rule(DROP, remote_port=np.arange(70, 90)),
        pk.Rule(DROP, remote_port=[1, range(80, 90)]),
        pk.Rule(DROP, local_port=[1, "50000"]),
    ]
    others = [
        pk.Rule(DROP, protocol="udp"),
        pk.Rule(DROP, remote="198.51.100.21"),
        pk.Rule(DROP, local=network),
        pk.Rule(DROP, direction="inbound"),
        pk.Rule(DROP, ip_version=6),
        pk.Rule(DROP, remote_port=range(81, 90)),
        pk.Rule(DROP, local_port="50001-60000"),
        pk.Rule(DROP, process=[1, 2]),
    ]
    batch = next(opened(syn(80)).batches())
    for rule in matching:
        assert pk.Policy([rule]).decide(batch).rule.tolist() == [0], rule
    for rule in others:
        assert pk.Policy([rule]).decide(batch).rule.tolist() == [pk.NO_RULE], rule


def test_rules_are_values():
    rule = pk.Rule("block", remote_port=(port for port in [23, range(6000, 6064)]))
    assert rule.remote_port == (23, "6000-6063")
    assert rule == pk.Rule("block", remote_port=[23, "6000-6063"])
    assert hash(rule) == hash(pk.Rule("block", remote_port=[23, "6000-6063"]))
    assert repr(rule) == "Rule(verdict='block', permanent=True, remote_port=(23, '6000-6063'))"
    with pytest.raises(AttributeError):
        rule.name = "other"


VERDICTS = '"accept", "block", "drop", "redirect_dns" or "redirect_tunnel"'
WRONG = {
    "verdict": (pk.Rule("blok"), f"rule[1]: verdict: 'blok' is no verdict: write {VERDICTS}"),
    "number": (pk.Rule(9), "rule[1]: verdict: 9 is no verdict: write"),
    "true": (pk.Rule(True), "rule[1]: verdict: True is no verdict: write"),
    "switch": (pk.Rule(DROP, permanent=1), "rule[1]: permanent: 1 is no switch: write true or"),
    "name": (
        pk.Rule(DROP, name=7),
        "rule[1]: name: 7 is no name: write text, such as",
    ),
    "direction": (
        pk.Rule(DROP, name="x", direction="out"),
        'rule[1] "x": direction: \'out\' is no direction: write "outbound" or "inbound"',
    ),
    "version": (pk.Rule(DROP, ip_version=5), "ip_version: 5 is no IP version: write 4 or 6"),
    "protocol": (pk.Rule(DROP, protocol="http"), "rule[1]: protocol: 'http' is no protocol: write"),
    "large": (pk.Rule(DROP, protocol=[6, 256]), "rule[1]: protocol[1]: 256 is no protocol: write"),
    "bits": (
        pk.Rule(DROP, remote=["192.0.2.1", "10.0.0.1/8"]),
        "rule[1]: remote[1]: 10.0.0.1/8 is an address in a network: write 10.0.0.0/8 for the "
        "network, or 10.0.0.1 for the address alone",
    ),
    "one-bits": (pk.Rule(DROP, remote="10.0.0.1/8"), "rule[1]: remote: 10.0.0.1/8 is an address"),
    "address": (pk.Rule(DROP, local="example.com"), "local: 'example.com' is no network or"),
    "bytes": (pk.Rule(DROP, local=b"\x0a\0\0\1"), "local: b'\\n\\x00\\x00\\x01' is no network or"),
    "number-net": (pk.Rule(DROP, local=5), "rule[1]: local: 5 is no network or address"),
    "empty": (
        pk.Rule(DROP, remote_port=[]),
        "remote_port: an empty list matches nothing: leave the condition out",
    ),
    "port": (pk.Rule(DROP, remote_port=[1, 65_536]), "remote_port[1]: 65536 is no port or range"),
    "port-name": (pk.Rule(DROP, remote_port="https"), "remote_port: 'https' is no port or range"),
    "reversed": (pk.Rule(DROP, remote_port="90-80"), "the range 90-80 is empty: write 80-90"),
    "steps": (pk.Rule(DROP, remote_port=range(0, 9, 2)), "range(0, 9, 2) is no port or range"),
    "no-range": (pk.Rule(DROP, remote_port=range(5, 5)), "range(5, 5) is no port or range"),
    "process": (pk.Rule(DROP, process=0), "process: 0 is no process id: write a number from 1"),
    "minus": (pk.Rule(DROP, process=[-1]), "rule[1]: process: -1 is no process id"),
    "huge": (pk.Rule(DROP, process=2**70), "is no process id"),
    "families": (
        pk.Rule(DROP, local="10.0.0.0/8", remote="2001:db8::/32"),
        "remote: no packet can match: this is IPv6 only, and local IPv4 only; make two rules",
    ),
}


@pytest.mark.parametrize(("rule", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_with_a_rule_is_said_with_its_place(rule, says):
    with pytest.raises(pk.PolicyError) as caught:
        pk.Policy([pk.Rule(DROP), rule])
    assert says in str(caught.value)
    error = caught.value
    assert error.rule == 1
    assert error.key
    assert str(error).startswith("rule[1]")
    assert f": {error.key}: " in str(error)
    assert (error.line, error.column, error.path) == (None, None, None)
    assert isinstance(error, (pk.Error, ValueError))
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.rule, copy.key) == (str(error), error.rule, error.key)


def test_what_is_wrong_with_a_policy_is_said():
    with pytest.raises(pk.PolicyError, match=r"rule\[0\] is a dict: write portmaster_kext\.Rule"):
        pk.Policy([{"verdict": "drop"}])
    with pytest.raises(pk.PolicyError, match="4097 rules are too many"):
        pk.Policy([pk.Rule(DROP)] * 4_097)
    with pytest.raises(pk.PolicyError, match=r"default is 'accept'.*Verdict\.ACCEPT"):
        pk.Policy(default="accept")
    with pytest.raises(pk.PolicyError, match="otherwise is a int: give a function"):
        pk.Policy(otherwise=5)
    with pytest.raises(pk.PolicyError, match="otherwise is a str"):
        pk.Policy.from_toml(FILE, otherwise="accept")


@pytest.mark.parametrize("as_text", [True, False])
def test_a_rule_file_is_read(tmp_path, as_text):
    path = tmp_path / "rules.toml"
    path.write_text(FILE, "utf-8")
    for source in (FILE,) if as_text else (path, str(path)):
        policy = pk.Policy.from_toml(source)
        assert repr(policy) == "<Policy of 3 rules, default accept (the flow)>"
        assert policy.rules == (
            pk.Rule(BLOCK, name="no telnet", protocol=6, remote_port=[23, "6000-6063"]),
            pk.Rule(
                DROP,
                permanent=False,
                direction=pk.Direction.OUTBOUND,
                ip_version=4,
                remote=["198.51.100.0/24", "2001:db8::/32"],
                local_port="50000-50003",
            ),
            pk.Rule(pk.Verdict.REDIRECT_DNS, name="mine", local="192.0.2.10/32", process=[1, 4]),
        )
        assert list(policy.hits) == ["no telnet", "rule[1]", "mine"]


def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text('[[rule]]\nname = "lab"\nverdict = "drop"\nremote = ["10.0.0.1/8"]\n', "utf-8")
    with pytest.raises(pk.PolicyError) as caught:
        pk.Policy.from_toml(path)
    error = caught.value
    assert str(error) == (
        f'{path}: line 4, column 11: rule[0] "lab": remote[0]: 10.0.0.1/8 is an address in a '
        "network: write 10.0.0.0/8 for the network, or 10.0.0.1 for the address alone"
    )
    assert (error.path, error.line, error.column) == (str(path), 4, 11)
    assert (error.rule, error.key) == (0, "remote[0]")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.path, copy.line, copy.column) == (str(path), 4, 11)
    with pytest.raises(pk.PolicyError, match=r"^line 1, column 9: this is not TOML"):
        pk.Policy.from_toml("verdict=")
    with pytest.raises(pk.PolicyError, match="there is no such key: use default, rule"):
        pk.Policy.from_toml('rules = "x"')
    with pytest.raises(pk.PolicyError, match=r"missing\.toml: cannot be read: No such file") as e:
        pk.Policy.from_toml("missing.toml")
    assert e.value.path == "missing.toml"
    path.write_bytes(b'default = "\xff"')
    with pytest.raises(pk.PolicyError, match="is not UTF-8"):
        pk.Policy.from_toml(path)


def test_the_rules_of_the_documentation_are_a_policy():
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text("utf-8")
    block = text.partition("```toml")[2].partition("\n")[2].partition("```")[0]
    assert len(pk.Policy.from_toml(block)) == 4


PORTS = st.one_of(
    st.integers(0, 12),
    st.builds(lambda a, b: f"{min(a, b)}-{max(a, b)}", st.integers(0, 12), st.integers(0, 12)),
)
NETWORKS = st.builds(
    lambda number, prefix: ipaddress.ip_network((0xC6336400 | number, prefix), strict=False),
    st.integers(0, 255),
    st.integers(24, 32),
)
RULES = st.lists(
    st.builds(
        pk.Rule,
        st.sampled_from([ACCEPT, BLOCK, DROP]),
        permanent=st.booleans(),
        direction=st.sampled_from([None, pk.Direction.OUTBOUND, "inbound"]),
        protocol=st.none() | st.lists(st.sampled_from(["tcp", 17, "udp"]), min_size=1, max_size=2),
        remote=st.none() | st.lists(NETWORKS, min_size=1, max_size=3),
        remote_port=st.none() | st.lists(PORTS, min_size=1, max_size=3),
    ),
    max_size=8,
)


def matches(rule: pk.Rule, request: pk.VerdictRequest) -> bool:
    """The meaning of a rule, as simple as can be."""
    numbers = {"tcp": 6, "udp": 17}
    protocols = rule.protocol and [numbers.get(p, p) for p in rule.protocol]
    ranges = rule.remote_port and [
        (int(first), int(last or first))
        for first, _, last in (str(port).partition("-") for port in rule.remote_port)
    ]
    return (
        (rule.direction is None or str(rule.direction) == str(request.direction))
        and (protocols is None or request.protocol in protocols)
        and (
            rule.remote is None
            or any(request.remote_address in ipaddress.ip_network(n) for n in rule.remote)
        )
        and (ranges is None or any(low <= request.remote_port <= high for low, high in ranges))
    )


@settings(deadline=None, max_examples=100)
@given(
    rules=RULES,
    packets=st.lists(
        st.tuples(st.sampled_from([6, 17]), st.integers(0, 255), st.integers(0, 12)),
        min_size=1,
        max_size=30,
        unique=True,
    ),
    default=st.sampled_from([None, ACCEPT, pk.Decision(DROP, False)]),
)
def test_a_policy_decides_as_its_rules_say(tmp_path_factory, rules, packets, default):
    bodies = {6: builders.tcp_segment, 17: builders.udp_datagram}
    frames = [
        builders.ipv4(
            builders.CLIENT, f"198.51.100.{host}", protocol, bodies[protocol](50_000 + n, port)
        )
        for n, (protocol, host, port) in enumerate(packets)
    ]
    path = builders.write(tmp_path_factory.mktemp("rules"), *frames)
    policy = pk.Policy(rules, default)
    again = pk.Policy(policy.rules, policy.default)
    with pk.open(f"replay:{path}", local=builders.CLIENT, ask_all=True) as kext:
        for batch in kext.batches():
            decisions = policy.decide(batch)
            for row, request in enumerate(batch):
                first = next((i for i, r in enumerate(rules) if matches(r, request)), None)
                if first is not None:
                    expected = pk.Decision(rules[first].verdict, rules[first].permanent)
                else:
                    expected = policy.default
                number = 0
                if expected is not None:
                    number = int(expected.verdict) * (1 if expected.permanent else -1)
                assert decisions.verdict[row] == number
                assert decisions.rule[row] == (pk.NO_RULE if first is None else first)
                assert (decisions.outcome[row] == 0) == (expected is not None)
            assert np.array_equal(again.decide(batch).rule, decisions.rule)
        assert sum(policy.hits.values()) + policy.misses == len(packets)
        assert kext.counters().balanced
