"""Traffic helpers for record.sh: the small servers, senders and wires it needs.

Only the standard library is used.  Everything here is meant to run inside the
network namespaces that record.sh makes; run `python3 tests/captures/traffic --help` for the list.

Ordinary traffic is made with ordinary sockets, so that the kernel builds and
answers the packets.  Raw sockets are used only for what no kernel socket can
send (SCTP and DCCP on kernels without them, odd IPv6 extension-header chains,
unusual protocol numbers).
"""

import argparse
import contextlib

from options import cmd_options
from raw import cmd_raw_peers
from senders import cmd_abort, cmd_burst, cmd_echo, cmd_flood_echo, cmd_keepalive, cmd_multicast
from servers import cmd_serve
from wires import cmd_to_null, cmd_tunnel, cmd_vlan_port


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)

    def command(name, function, *arguments):
        sub = commands.add_parser(name, help=(function.__doc__ or "").split("\n")[0])
        sub.set_defaults(function=function)
        for flags, options in arguments:
            sub.add_argument(*flags.split(), **options)

    some = {"nargs": "+"}
    number = {"type": int}
    need = {"required": True}
    command("serve", cmd_serve, ("--http", {"action": "store_true"}), ("addresses", some))
    command("echo", cmd_echo, ("address", {}), ("sizes", {"nargs": "+", "type": int}))
    command("flood-echo", cmd_flood_echo, ("address", {}), ("size", number), ("count", number))
    command(
        "burst",
        cmd_burst,
        ("--flows", {"type": int, "default": 3}),
        ("--count", {"type": int, "default": 500}),
        ("--size", {"type": int, "default": 32}),
        ("addresses", some),
    )
    command(
        "keepalive",
        cmd_keepalive,
        ("address", {}),
        ("port", number),
        ("host", {}),
        ("count", number),
    )
    command("abort", cmd_abort, ("address", {}), ("port", number))
    command("multicast", cmd_multicast, ("interface", {}), ("broadcast", {}))
    command(
        "options",
        cmd_options,
        *[(f"--{who}{v}", need) for v in (4, 6) for who in ("client", "server", "router")],
    )
    command("raw-peers", cmd_raw_peers, ("addresses", some))
    command(
        "vlan-port",
        cmd_vlan_port,
        ("--vlan", {"action": "append", "required": True}),
        ("parent", {}),
    )
    command("tunnel", cmd_tunnel, ("name", {}), ("other", {}))
    command("to-null", cmd_to_null, ("source", {}), ("target", {}))
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
