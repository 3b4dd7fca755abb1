"""Policies of rules, evaluated over whole batches.

What a rule means, and how rule files are written, is in `docs/rules.md`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from portmaster_kext import _native
from portmaster_kext.async_session import AsyncKext
from portmaster_kext.errors import InvalidVerdictError, PolicyError
from portmaster_kext.options import MAX_REQUESTS, Payload
from portmaster_kext.session import Kext
from portmaster_kext.verdicts import Decision, Direction, Outcome, Verdict

Answer: TypeAlias = Verdict | Decision | None
"""A decision; a verdict alone stands for the flow. None leaves the request as it is."""

RuleNetwork: TypeAlias = str | IPv4Network | IPv6Network | IPv4Address | IPv6Address
"""A network such as `"10.0.0.0/8"`, without bits behind the prefix, or one address."""

RulePort: TypeAlias = int | str | range
"""A port, 0 to 65,535, or several: `"6000-6063"`, both ends included, or `range(6000, 6064)`."""

NO_RULE = 65_535
"""The rule of a request that no rule matches, in `PolicyDecisions.rule`."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """Conditions, and the verdict where all of them hold.

    A condition that is None always holds. One that is given is a value or an iterable of values,
    and holds if the request has one of them; it is kept as a tuple. Values are those of rule files
    (`docs/rules.md`); they are checked when a `Policy` is made of the rule.

    >>> pk.Rule("block", protocol="tcp", remote_port=[23, "6000-6063"])
    Rule(verdict='block', permanent=True, protocol=('tcp',), remote_port=(23, '6000-6063'))
    """

    verdict: Verdict | str
    """What is decided: a `Verdict`, or its name as in a file: `"accept"`, `"redirect_dns"` …"""
    permanent: bool = True
    """True: for the flow. False: for the packet that was asked about alone."""
    name: str | None = None
    """A name for messages and statistics."""
    direction: Direction | str | None = None
    """Which way the packet goes: a `Direction`, or its name."""
    ip_version: int | None = None
    """4 or 6."""
    protocol: int | str | Iterable[int | str] | None = None
    """IANA numbers, 0 to 255, and names: `"tcp"`, `"udp"`, `"icmp"`, `"icmpv6"` …"""
    local: RuleNetwork | Iterable[RuleNetwork] | None = None
    """Networks of this machine's address."""
    remote: RuleNetwork | Iterable[RuleNetwork] | None = None
    """Networks of the other end's address."""
    local_port: RulePort | Iterable[RulePort] | None = None
    """Ports of this machine, or identifiers of ICMP echoes; 0 where the protocol has neither."""
    remote_port: RulePort | Iterable[RulePort] | None = None
    """Ports of the other end; 0 where the protocol has none."""
    process: int | Iterable[int] | None = None
    """Process ids, from 1. A request whose process is unknown is of none of them."""

    def __post_init__(self) -> None:
        for field in ("protocol", "process"):
            object.__setattr__(self, field, _items(getattr(self, field)))
        for field in ("local", "remote"):
            networks = _items(getattr(self, field))
            if networks is not None:
                networks = tuple(str(n) if isinstance(n, _NETWORKS) else n for n in networks)
            object.__setattr__(self, field, networks)
        for field in ("local_port", "remote_port"):
            ports = _items(getattr(self, field))
            if ports is not None:
                ports = tuple(map(_port, ports))
            object.__setattr__(self, field, ports)

    def __repr__(self) -> str:
        given = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if field.name in ("verdict", "permanent") or getattr(self, field.name) is not None
        )
        return f"Rule({', '.join(given)})"


class PolicyDecisions(NamedTuple):
    """What a policy made of a batch; row *i* of each array is about `batch[i]`."""

    verdict: npt.NDArray[np.int8]
    """Codes of `Verdict`, negative if for this packet alone; 0 where the policy set none."""
    rule: npt.NDArray[np.uint16]
    """The index of the rule that matched; `NO_RULE` (65,535) where none did."""
    outcome: npt.NDArray[np.uint8]
    """What became of the verdict: codes of `Outcome`, `Outcome.UNDECIDED` where none was set."""


class Policy:
    """Rules that decide requests in whole batches: the first one that matches does.

    `rules` are tried in their order. A request that none of them matches is a miss: `otherwise` is
    asked for each, and `default` decides those that it leaves, if there is a default. `otherwise`
    answers with a `Verdict` (for the flow), a `Decision`, or None; with None it may have decided
    the request itself, and without a default it may also have put it aside to be decided later. A
    miss that nobody decides stays held.

    Rules are compiled: a hundred cost little more than one. A policy may be used by several
    threads and sessions at once.

    Raises `PolicyError` for what is no rule, and for more than 4,096 of them.

    >>> policy = pk.Policy(
    ...     [
    ...         pk.Rule(pk.Verdict.BLOCK, name="telnet", protocol="tcp", remote_port=23),
    ...         pk.Rule(pk.Verdict.DROP, name="documentation", remote=["198.51.100.0/24"]),
    ...     ],
    ...     default=pk.Verdict.ACCEPT,
    ... )
    >>> with pk.open("synthetic:1000") as kext:
    ...     policy.run(kext)
    1000
    >>> policy.hits["telnet"], policy.misses + sum(policy.hits.values())
    (0, 1000)
    """

    __slots__ = ("_default", "_native", "_otherwise", "_rules")

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        default: Verdict | Decision | None = None,
        otherwise: Callable[[_native.VerdictRequest], Answer] | None = None,
    ) -> None:
        given = tuple(rules)
        for index, rule in enumerate(given):
            if not isinstance(rule, Rule):
                raise PolicyError(
                    f"rule[{index}] is a {type(rule).__name__}: write portmaster_kext.Rule(…)",
                    index,
                )
        number = None
        if default is not None:
            try:
                decision = _decision(default, "default")
            except InvalidVerdictError as error:
                raise PolicyError(str(error)) from None
            number = (decision.verdict.value, decision.permanent)
        self._set(_native.RulePolicy.from_rules(given, number), otherwise, given)

    def _set(
        self,
        native: _native.RulePolicy,
        otherwise: Callable[[_native.VerdictRequest], Answer] | None,
        rules: tuple[Rule, ...],
    ) -> None:
        if otherwise is not None and not callable(otherwise):
            raise PolicyError(
                f"otherwise is a {type(otherwise).__name__}: give a function of a request"
            )
        default = native.default
        self._native = native
        self._rules = rules
        self._default = None if default is None else Decision(Verdict(default[0]), default[1])
        self._otherwise = otherwise

    @classmethod
    def from_toml(
        cls,
        source: str | os.PathLike[str],
        otherwise: Callable[[_native.VerdictRequest], Answer] | None = None,
    ) -> Policy:
        """The policy of a rule file, which `docs/rules.md` describes.

        `source` is a path; text with a line break or a `=` in it is the file's text itself.

        Raises `PolicyError` for a file that cannot be read or is no policy: with the line, the
        rule, the key, and what to write instead.

        >>> pk.Policy.from_toml('default = "block"')
        <Policy of 0 rules, default block (the flow)>
        """
        text = source
        path: str | None = None
        if not isinstance(source, str) or not ("\n" in source or "=" in source):
            path = os.fsdecode(source)
            try:
                text = Path(path).read_text("utf-8")
            except OSError as error:
                raise PolicyError(f"{path}: cannot be read: {error.strerror}", path=path) from None
            except UnicodeDecodeError as error:
                raise PolicyError(f"{path}: is not UTF-8: {error}", path=path) from None
        try:
            native = _native.RulePolicy.from_toml(str(text))
        except PolicyError as error:
            if path is None:
                raise
            place = error.args[3]
            raise PolicyError(f"{path}: {error}", error.rule, error.key, place, path) from None
        policy = cls.__new__(cls)
        policy._set(native, otherwise, tuple(_rule(*parts) for parts in native.rules))
        return policy

    def decide(self, batch: _native.RequestBatch) -> PolicyDecisions:
        """Decide a batch: set the verdicts of all of its requests, and tell them.

        The verdicts of rules are set first, all at once; then `otherwise` is asked for each miss,
        and its answers are set together. If it raises, the answers before are set, and the misses
        from there on stay held. A verdict that comes too late for a packet fails by itself: look
        for outcomes that are not `Outcome.APPLIED`.

        Raises what `otherwise` does, `InvalidVerdictError` if its answer is none, `ClosedError`.

        >>> policy = pk.Policy([pk.Rule("drop", remote_port=443)])
        >>> with pk.open("synthetic:4") as kext:
        ...     decisions = policy.decide(next(kext.batches()))
        >>> decisions.verdict.tolist(), decisions.rule.tolist(), decisions.outcome.tolist()
        ([4, 0, 0, 0], [0, 65535, 65535, 65535], [0, 255, 255, 255])
        """
        leave = self._otherwise is not None
        numbers, rules, outcomes, misses = self._native.decide(batch, leave)
        if misses and self._otherwise is not None:
            self._ask(self._otherwise, batch, numbers, rules, outcomes)
        return PolicyDecisions(numbers, rules, outcomes)

    def _ask(
        self,
        otherwise: Callable[[_native.VerdictRequest], Answer],
        batch: _native.RequestBatch,
        numbers: npt.NDArray[np.int8],
        rules: npt.NDArray[np.uint16],
        outcomes: npt.NDArray[np.uint8],
    ) -> None:
        """Decide the misses by `otherwise` and the default."""
        rows: list[int] = []
        chosen: list[int] = []
        left: list[int] = []
        try:
            for row in np.flatnonzero(rules == NO_RULE).tolist():
                request = batch[row]
                answer = otherwise(request)
                if answer is None:
                    decision = self._default
                    left.append(row)
                else:
                    decision = _decision(answer, f"the answer for {request!r}")
                if decision is not None:
                    rows.append(row)
                    chosen.append(_number(decision))
        finally:
            if rows:
                numbers[rows] = chosen
                outcomes[rows] = self._native.set_rows(batch, rows, chosen)
                # What `otherwise` has decided itself stands, and the default was not needed.
                needless = [r for r in left if outcomes[r] == Outcome.ALREADY_DECIDED]
                numbers[needless] = 0

    def run(
        self,
        kext: Kext,
        max_requests: int = MAX_REQUESTS,
        max_wait: float | None = None,
        payload: Payload = 0,
    ) -> int:
        """Decide the requests of a session until it ends; how many there were.

        Arguments as for `Kext.batches`; `payload` is for `otherwise`. Raises as `decide` does, and
        what a loop over the batches would.
        """
        count = 0
        for batch in kext.batches(max_requests, max_wait, payload):
            self.decide(batch)
            count += len(batch)
        return count

    async def run_async(
        self,
        kext: AsyncKext,
        max_requests: int = MAX_REQUESTS,
        max_wait: float | None = None,
        payload: Payload = 0,
    ) -> int:
        """The same for a session of asyncio.

        `otherwise` is called in the event loop. What takes time it gives to a task, and answers
        with None, of a policy without a default: the request is held until the task decides it.

        >>> import asyncio
        >>> async def main() -> int:
        ...     async with pk.open_async("synthetic:1000") as kext:
        ...         return await pk.Policy(default=pk.Verdict.ACCEPT).run_async(kext)
        >>> asyncio.run(main())
        1000
        """
        count = 0
        async for batch in kext.batches(max_requests, max_wait, payload):
            self.decide(batch)
            count += len(batch)
        return count

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in the order in which they are tried."""
        return self._rules

    @property
    def default(self) -> Decision | None:
        """The decision for misses; None if they are left to `otherwise` and the caller."""
        return self._default

    @property
    def hits(self) -> Mapping[str, int]:
        """How many requests each rule has matched since the policy was made, by its name.

        A rule without a name goes by its index, as in messages: `"rule[3]"`. Rules of one name are
        counted together.
        """
        hits: dict[str, int] = {}
        for index, (rule, count) in enumerate(zip(self._rules, self._native.hits, strict=True)):
            name = f"rule[{index}]" if rule.name is None else rule.name
            hits[name] = hits.get(name, 0) + count
        return MappingProxyType(hits)

    @property
    def misses(self) -> int:
        """How many requests no rule has matched, likewise."""
        return self._native.misses

    def __len__(self) -> int:
        return len(self._rules)

    def __repr__(self) -> str:
        default = "" if self._default is None else f", default {self._default}"
        otherwise = "" if self._otherwise is None else ", otherwise asked"
        return f"<Policy of {len(self)} rules{default}{otherwise}>"


_NETWORKS = (IPv4Network, IPv6Network, IPv4Address, IPv6Address)
_SINGLE = (str, bytes, int, range, *_NETWORKS)
"""Values of a condition; all but the numbers are iterable, too."""


def _items(value: object) -> tuple[object, ...] | None:
    """A condition as a tuple; a value alone is a list of one."""
    if value is None:
        return None
    if isinstance(value, Iterable) and not isinstance(value, _SINGLE):
        return tuple(value)
    return (value,)


def _port(port: object) -> object:
    """A range in the form of rule files; one that this cannot say is left, to be refused."""
    if isinstance(port, range) and port.step == 1 and len(port) > 0 and port.start >= 0:
        return f"{port.start}-{port.stop - 1}"
    return port


def _decision(value: Verdict | Decision, what: str) -> Decision:
    if isinstance(value, Decision) and isinstance(value.verdict, Verdict):
        return value
    if isinstance(value, Verdict):
        return Decision(value, True)
    names = ", ".join(f"Verdict.{verdict.name}" for verdict in Verdict)
    raise InvalidVerdictError(f"{what} is {value!r}, and must be one of {names}, or a Decision")


def _number(decision: Decision) -> int:
    return decision.verdict.value if decision.permanent else -decision.verdict.value


def _rule(
    verdict: int,
    permanent: bool,
    name: str | None,
    direction: int | None,
    ip_version: int | None,
    protocol: list[int] | None,
    local: list[str] | None,
    remote: list[str] | None,
    local_port: list[str] | None,
    remote_port: list[str] | None,
    process: list[int] | None,
) -> Rule:
    """The rule that a file's rule is."""
    return Rule(
        Verdict(verdict),
        permanent,
        name,
        None if direction is None else Direction(direction),
        ip_version,
        protocol,
        local,
        remote,
        _numbers(local_port),
        _numbers(remote_port),
        process,
    )


def _numbers(ports: list[str] | None) -> list[RulePort] | None:
    """Ports as numbers, ranges as text."""
    return None if ports is None else [int(p) if p.isdecimal() else p for p in ports]
