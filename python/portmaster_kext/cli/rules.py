"""Policy files of rules: loading one, and deciding a batch by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from portmaster_kext._native import RequestBatch
from portmaster_kext.cli.policy import LoadError, standing
from portmaster_kext.cli.report import Outcome
from portmaster_kext.errors import PolicyError
from portmaster_kext.rules import Policy
from portmaster_kext.session import Kext
from portmaster_kext.verdicts import Decision, Verdict
from portmaster_kext.verdicts import Outcome as Code

SUFFIX = ".toml"
"""Files of this suffix hold rules; any other is Python."""


def is_rules(path: str) -> bool:
    """Whether a policy file holds rules, by its name."""
    return PurePath(path).suffix.lower() == SUFFIX


def load(path: str, default: Verdict) -> Policy:
    """The policy of a file, with this default unless the file has one. Raises `LoadError`."""
    try:
        policy = Policy.from_toml(PurePath(path))
        if policy.default is None:
            policy = Policy(policy.rules, default)
    except PolicyError as error:
        raise LoadError(f"policy {error}") from None
    return policy


def batched(policy: Policy) -> bool:
    """Whether it may decide whole batches and come to the same as with one request at a time.

    Not with verdicts for single packets: what waits with a packet is asked about after its verdict,
    and that may be an ICMP error, which has no flow of its own as long as the other is held.
    """
    default = policy.default
    return all(rule.permanent for rule in policy.rules) and (default is None or default.permanent)


def decide(policy: Policy, batch: RequestBatch, kext: Kext) -> Iterator[Outcome]:
    """Decide a batch, and tell of each request what became of it."""
    decisions = policy.decide(batch)
    verdicts, outcomes = decisions.verdict.tolist(), decisions.outcome.tolist()
    for request, number, code in zip(batch, verdicts, outcomes, strict=True):
        if code == Code.APPLIED:
            yield Outcome(request, Decision(Verdict(abs(number)), number > 0), "applied")
        else:
            yield Outcome(request, *standing(request, kext))
