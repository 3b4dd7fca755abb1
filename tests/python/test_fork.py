"""A session belongs to the process that opened it: its copy in a forked child does nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import builders
import portmaster_kext as pk
import pytest

FORKED = """
import gc, os, sys
import portmaster_kext as pk

kext = pk.open(sys.argv[1], local=["192.0.2.10"], output=sys.argv[2])
first, second = next(kext), next(kext)
batch = next(kext.batches())
events = kext.connection_events()
first.accept()  # waits to be sent, or is on its way

child = os.fork()
if child == 0:
    calls = [
        lambda: next(kext),
        lambda: next(kext.batches()),
        lambda: first.accept(),
        lambda: second.drop(),
        lambda: batch.set_verdicts(pk.Verdict.DROP),
        lambda: kext.set_verdict(second.id, pk.Verdict.DROP),
        lambda: kext.set_verdicts([second.id], pk.Verdict.DROP),
        lambda: kext.get_payload(second.id),
        lambda: kext.counters(),
        lambda: kext.flush(),
        lambda: list(kext.flows()),
        lambda: next(events),
        lambda: kext.clear_cache(),
        lambda: kext.config,
    ]
    for number, call in enumerate(calls):
        try:
            call()
        except pk.ForkError as error:
            assert "open the device again" in str(error), error
        else:
            os._exit(10 + number)
    assert kext.replay_report() is None
    assert batch.remote_port.tolist() == [3]
    kext.cancel()
    kext.close()
    # A session of the child's own.
    with pk.open(sys.argv[1], local=["192.0.2.10"]) as own:
        for request in own:
            request.accept()
    assert own.counters().permitted == 3
    del kext, first, second, batch, events
    gc.collect()
    sys.exit(0)

_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, os.waitstatus_to_exitcode(status)
second.drop()
batch.set_verdicts(pk.Verdict.ACCEPT)
kext.close()
counters = kext.counters()
assert (counters.permitted, counters.dropped, counters.balanced) == (2, 1, True), counters
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_refused_and_the_parent_goes_on(tmp_path):
    path = builders.write(tmp_path, builders.syn(1), builders.syn(2), builders.syn(3))
    output = tmp_path / "out.pcapng"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, f"replay:{path}", str(output)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    # The child has added nothing to the parent's file.
    with pk.open(f"replay:{output}") as kext:
        assert len(list(kext)) == 2
