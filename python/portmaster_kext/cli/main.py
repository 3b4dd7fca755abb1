"""Arguments in, exit status out. What a command does is its own module's business."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from portmaster_kext import __version__, _native
from portmaster_kext.cli import replay
from portmaster_kext.options import network

BROKEN_PIPE = 141
"""What a shell reports for a program that SIGPIPE ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except OSError as error:
        # Every file has been seen to by now, and a policy's errors are its own: this is the output.
        _discard_output()
        print(f"portmaster-kext: the output cannot be written: {error}", file=sys.stderr)
        return replay.BAD_INPUT
    except KeyboardInterrupt:
        print("portmaster-kext: interrupted", file=sys.stderr)
        return replay.INTERRUPTED
    return status


def _discard_output() -> None:
    """Let what is still buffered go nowhere: Python would try once more at exit and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _network(text: str) -> str:
    try:
        return network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} (like 192.0.2.0/24, or one address)") from None


def _version(_options: argparse.Namespace) -> int:
    print(f"portmaster-kext {__version__}, extended interface {_native.PROTOCOL_VERSION}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="portmaster-kext",
        allow_abbrev=False,
        description="Set verdicts on network packets, one flow at a time.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    version = commands.add_parser("version", help="print the version", description="Print it.")
    version.set_defaults(run=_version)

    command = commands.add_parser(
        "replay",
        help="run a capture through the extension",
        # A name that is short enough today would be ambiguous with the next option.
        allow_abbrev=False,
        description=(
            "Present the packets of a capture to the extension, decide each flow by a policy, and "
            "show what became of them."
        ),
        epilog=(
            "Exit status: 0 done, 1 the policy failed, 2 bad arguments or input, 130 interrupted. "
            "Whenever the capture was opened, the summary is printed and its counters balance."
        ),
    )
    command.set_defaults(run=replay.run)
    command.add_argument("capture", metavar="CAPTURE", help="a pcap or pcapng file")
    command.add_argument(
        "--policy",
        metavar="FILE",
        help="FILE.toml: rules, of which the first that matches decides. FILE.py: Python with "
        "decide(request, kext) -> Verdict | None; None stands for the default, unless decide() has "
        "set a verdict itself",
    )
    command.add_argument(
        "--default",
        choices=["accept", "block", "drop"],
        default="accept",
        help="the verdict where there is no policy, or the policy has none; the default of a rule "
        "file goes first (default: %(default)s)",
    )
    command.add_argument(
        "--local",
        metavar="CIDR",
        type=_network,
        action="append",
        default=[],
        help="a network or address on this side of the capture; repeat it for more (default: "
        "inferred, and stated in the output)",
    )
    command.add_argument(
        "--output",
        metavar="OUT.pcapng",
        help="write the packets that leave to this file, with direction and verdict as comments",
    )
    command.add_argument(
        "--format",
        choices=["table", "jsonl"],
        default="table",
        help="a table of flows for people, or one JSON object for each request and a last one "
        "with the summary (default: %(default)s)",
    )
    command.add_argument(
        "--realtime", action="store_true", help="wait between packets as the time stamps say"
    )
    command.add_argument(
        "--ask-all",
        action="store_true",
        help="ask for each flow, also neighbour discovery, DHCP, broadcast, multicast and fast "
        "track, which are permitted unasked by default",
    )
    return parser
