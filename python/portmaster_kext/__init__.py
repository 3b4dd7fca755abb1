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
from portmaster_kext.async_session import AsyncBatches, AsyncKext, OpeningKext, open_async
from portmaster_kext.config import (
    Capacities,
    Config,
    FallbackPolicy,
    FragmentPolicy,
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
    LoopError,
    NotHeldError,
    PolicyError,
    ProtocolMismatchError,
    UnknownIdError,
)
from portmaster_kext.flows import ConnectionEvents, FlowEvent, Flows
from portmaster_kext.rules import NO_RULE, Policy, PolicyDecisions, Rule
from portmaster_kext.session import Kext, open  # noqa: A004
from portmaster_kext.verdicts import Decision, Direction, FlowEnd, FlowOrigin, Outcome, Verdict

__all__ = [
    "NO_RULE",
    "AlreadyDecidedError",
    "AsyncBatches",
    "AsyncKext",
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
    "FallbackPolicy",
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
    "LoopError",
    "NotHeldError",
    "OpeningKext",
    "Outcome",
    "Policy",
    "PolicyDecisions",
    "PolicyError",
    "ProtocolMismatchError",
    "RedirectTarget",
    "ReplayReport",
    "RequestBatch",
    "Rule",
    "Special",
    "UnknownIdError",
    "Verdict",
    "VerdictRequest",
    "__version__",
    "open",
    "open_async",
]
