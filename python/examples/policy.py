"""An example policy, for `portmaster-kext replay CAPTURE --policy python/examples/policy.py`.

`decide` is asked once for each new flow, with its first packet held back until it answers. A
verdict that it returns stands for the whole flow. None means "the default", unless it has decided
the packet itself.
"""

import portmaster_kext as pk

TCP = 6
TELNET = 23
HTTP = 80

# Names that a request's Host line (RFC 9110 §7.2) may begin with.
ADVERTISING = (b"Host: ads.", b"Host: tracker.")


def decide(request: pk.VerdictRequest, kext: pk.Kext) -> pk.Verdict | None:
    """Refuse telnet, drop requests to advertising hosts, let the rest go."""
    # Telnet sends passwords as they are. A block answers with a TCP reset, so that the client
    # fails at once instead of waiting.
    if request.protocol == TCP and request.remote_port == TELNET:
        return pk.Verdict.BLOCK

    # The first packet of a TCP connection carries no data yet, so a web flow is accepted packet by
    # packet until the one that tells its host has been seen.
    if request.protocol == TCP and request.remote_port == HTTP:
        payload = kext.get_payload(request.id)
        if any(host in payload for host in ADVERTISING):
            return pk.Verdict.DROP
        if b"\r\nHost: " in payload:
            return pk.Verdict.ACCEPT
        request.accept(permanent=False)

    return None
