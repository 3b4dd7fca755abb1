"""The ten lines of the README."""

import portmaster_kext as pk

with pk.open("replay:tests/captures/web.pcapng") as kext:
    for request in kext:  # blocks until there is one; ends with the capture
        if request.remote_port == 23:
            request.block()  # = kext.set_verdict(request.id, pk.Verdict.BLOCK)
        elif b"Host: ads." in kext.get_payload(request.id):
            request.drop(permanent=False)
        else:
            request.accept()
print(kext.counters())
