"""Set verdicts on network packets, one flow at a time, from Python.

```python
import portmaster_kext as pk

with pk.open("replay:capture.pcapng") as kext:
    for request in kext:
        request.block() if request.remote_port == 23 else request.accept()
print(kext.counters())
```
"""

from portmaster_kext._native import (
    Flow,
    FlowBatch,
    FlowEventBatch,
    ReplayReport,
    RequestBatch,
    VerdictRequest,
    __version__,
)
from portmaster_kext.config import (
    Capacities,
    Config,
    FragmentPolicy,
    Policy,
    RedirectTarget,
    Special,
)
from portmaster_kext.counters import Counters
from portmaster_kext.errors import (
    AlreadyDecidedError,
    CancelledError,
    CaptureError,
    ClosedError,
    ConfigError,
    DeviceError,
    Error,
    ExtensionError,
    ForkError,
    InvalidVerdictError,
    NotHeldError,
    ProtocolMismatchError,
    UnknownIdError,
)
from portmaster_kext.flows import ConnectionEvents, FlowEvent, Flows
from portmaster_kext.session import Kext, open  # noqa: A004
from portmaster_kext.verdicts import Decision, Direction, FlowEnd, FlowOrigin, Outcome, Verdict

__all__ = [
    "AlreadyDecidedError",
    "CancelledError",
    "Capacities",
    "CaptureError",
    "ClosedError",
    "Config",
    "ConfigError",
    "ConnectionEvents",
    "Counters",
    "Decision",
    "DeviceError",
    "Direction",
    "Error",
    "ExtensionError",
    "Flow",
    "FlowBatch",
    "FlowEnd",
    "FlowEvent",
    "FlowEventBatch",
    "FlowOrigin",
    "Flows",
    "ForkError",
    "FragmentPolicy",
    "InvalidVerdictError",
    "Kext",
    "NotHeldError",
    "Outcome",
    "Policy",
    "ProtocolMismatchError",
    "RedirectTarget",
    "ReplayReport",
    "RequestBatch",
    "Special",
    "UnknownIdError",
    "Verdict",
    "VerdictRequest",
    "__version__",
    "open",
]
