"""Decide by a rule file, ask about what it leaves, and say which rules were needed.

python python/examples/rule_file.py replay:tests/captures/web.pcapng python/examples/rules.toml
"""

from __future__ import annotations

import sys

import portmaster_kext as pk


def main(device: str, path: str) -> int:
    """Decide the requests of a device until it ends; the exit status."""
    try:
        policy = pk.Policy.from_toml(path)
    except pk.PolicyError as error:
        # The file, the line, the rule, the key, and what to write instead.
        print(error, file=sys.stderr)
        return 2
    # Rules of a program may go before those of a file.
    own = pk.Rule("drop", name="the lab", remote="203.0.113.0/24")
    policy = pk.Policy([own, *policy.rules], policy.default or pk.Verdict.ACCEPT)
    with pk.open(device) as kext:
        count = policy.run(kext)
    for name, hits in policy.hits.items():
        print(f"{hits:>6} {name}{'' if hits else ' (never needed)'}")
    print(f"{policy.misses:>6} by default, of {count:,}")
    print(kext.counters())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
