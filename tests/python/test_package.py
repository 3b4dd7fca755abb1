"""The package as a whole: examples, names, types, versions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import portmaster_kext as pk

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "python" / "examples"
CAPTURE = ROOT / "tests" / "captures" / "web.pcapng"


def test_every_public_name_is_there_and_documented():
    for name in pk.__all__:
        value = getattr(pk, name)
        assert name == "__version__" or value.__doc__, name


def test_the_version_is_that_of_the_workspace():
    manifest = (ROOT / "Cargo.toml").read_text("utf-8")
    version = re.search(r'^version = "(.+)"$', manifest, re.MULTILINE)
    assert version is not None
    assert pk.__version__ == version[1]


def test_the_package_is_marked_as_typed():
    assert (Path(pk.__file__).parent / "py.typed").exists()


def test_the_native_module_agrees_with_its_stub(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "portmaster_kext"],
        # Not the source tree: its package has no compiled half, unless it was installed from there.
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_example_runs():
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "readme.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"seen \d+ = permitted \d+ \+ ", done.stdout)


def test_the_example_policy_blocks_telnet_and_drops_advertising(run):
    done = run("replay", CAPTURE, "--policy", EXAMPLES / "policy.py")
    telnet = [line for line in done.stdout.splitlines() if re.search(r":23\s", line)]
    assert telnet
    assert all(" block " in line for line in telnet)
    assert " drop " in done.stdout
    assert " accept " in done.stdout
