"""`portmaster-kext replay`: a capture through the extension, decided by a policy."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable

from portmaster_kext import session
from portmaster_kext.cli import policy, rules
from portmaster_kext.cli.jsonl import JsonLines
from portmaster_kext.cli.progress import Progress
from portmaster_kext.cli.report import Outcome, Reporter, Summary
from portmaster_kext.cli.table import Table
from portmaster_kext.errors import ClosedError, Error
from portmaster_kext.options import MAX_REQUESTS, same_file
from portmaster_kext.rules import Policy
from portmaster_kext.session import Kext
from portmaster_kext.verdicts import Verdict

DONE = 0
POLICY_FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
"""What a shell reports for a program that SIGINT ended."""


def run(options: argparse.Namespace) -> int:
    """Replay as the options say, and return the exit status."""
    started = time.perf_counter()
    default = Verdict[options.default.upper()]
    decide: policy.Decide | None = None
    by_rules: Policy | None = None
    try:
        if options.policy is not None:
            if rules.is_rules(options.policy):
                by_rules = rules.load(options.policy, default)
            else:
                decide = policy.load(options.policy)
            if options.output is not None and same_file(options.output, options.policy):
                return _complain(f"--output {options.output} is the policy", BAD_INPUT)
        kext = session.open(
            f"replay:{options.capture}",
            local=options.local,
            output=options.output,
            realtime=options.realtime,
            ask_all=options.ask_all,
            # One by one, and each verdict at once: what is printed of a request is what became of
            # it, and each packet is written where it left, before the next one comes.
            max_requests=1,
            flush_interval=0,
        )
    except (Error, policy.LoadError) as error:
        return _complain(error, BAD_INPUT)

    table = options.format == "table"
    if options.realtime and isinstance(sys.stdout, io.TextIOWrapper):
        # Whoever reads along wants a request when it happens, not when a buffer is full.
        sys.stdout.reconfigure(line_buffering=True)
    reporter: Reporter = Table(sys.stdout) if table else JsonLines(sys.stdout)
    progress = Progress(sys.stderr, kext, enabled=table)
    try:
        if by_rules is None:
            status = _guarded(
                lambda: _decide_all(kext, decide, options, default, reporter, progress)
            )
        else:
            # Batches, unless they could be noticed: by the order of packets that are written, too.
            together = rules.batched(by_rules) and options.output is None
            most = MAX_REQUESTS if together else 1
            status = _guarded(lambda: _decide_batches(kext, by_rules, most, reporter, progress))
        status = _guarded(lambda: reporter.flows(kext.flows()), status)
    finally:
        # A write to a closed pipe ends up here too: held packets must not wait for the collector.
        closing = _guarded(kext.close)
    summary = Summary.of(kext, time.perf_counter() - started)
    reporter.summary(summary)
    _tell_malformed(options.capture, summary)
    return status or closing


def _decide_all(
    kext: Kext,
    decide: policy.Decide | None,
    options: argparse.Namespace,
    default: Verdict,
    reporter: Reporter,
    progress: Progress,
) -> None:
    """Decide request after request until the capture ends."""
    with progress:
        for request in kext:
            try:
                answer = (
                    None if decide is None else policy.ask(decide, options.policy, request, kext)
                )
                decision, how = policy.settle(request, kext, answer, default)
            except BaseException:
                # Each request is told, also the one that the policy failed on.
                reporter.request(Outcome(request, *policy.standing(request, kext)))
                raise
            reporter.request(Outcome(request, decision, how))
            progress.update()
    if kext.closed:
        # By a thread of the policy, while nothing was asked.
        raise ClosedError("the capture has not been read to its end")


def _decide_batches(
    kext: Kext, by_rules: Policy, most: int, reporter: Reporter, progress: Progress
) -> None:
    """The same by rules, many requests at a time."""
    with progress:
        for batch in kext.batches(most):
            for outcome in rules.decide(by_rules, batch, kext):
                reporter.request(outcome)
            progress.update()


def _tell_malformed(capture: str, summary: Summary) -> None:
    """Say which packets of the capture are not what they should be, the first of them in full."""
    report = summary.report
    sys.stdout.flush()
    for problem in report.first_malformed:
        print(f"portmaster-kext: {capture}: {problem}", file=sys.stderr)
    more = report.malformed - len(report.first_malformed)
    if more > 0:
        print(f"portmaster-kext: {capture}: {more:,} more malformed packets", file=sys.stderr)


def _guarded(action: Callable[[], None], before: int = DONE) -> int:
    """Run the action; the exit status that its failure means, complained about, or `before`."""
    try:
        action()
    except policy.AskError as error:
        return before or _complain(error, POLICY_FAILED)
    except KeyboardInterrupt:
        return before or _complain("interrupted", INTERRUPTED)
    except ClosedError as error:
        # The policy has the session too, and nobody else could have closed it.
        return before or _complain(f"the policy closed the session: {error}", POLICY_FAILED)
    except Error as error:
        return before or _complain(error, BAD_INPUT)
    return before


def _complain(error: object, status: int) -> int:
    sys.stdout.flush()
    print(f"portmaster-kext: {error}", file=sys.stderr)
    return status
