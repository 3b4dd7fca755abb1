"""The compiled half of the package: conversions between Python and the Rust client.

Its public classes are re-exported by `portmaster_kext`; import them from there.
"""

from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, SupportsIndex, final, overload

import numpy as np
import numpy.typing as npt

from portmaster_kext.config import Capacities, Config
from portmaster_kext.rules import Rule
from portmaster_kext.verdicts import Direction, Verdict

__all__ = [
    "PROTOCOL_VERSION",
    "AsyncReader",
    "Batches",
    "EndedFlows",
    "Flow",
    "FlowBatch",
    "FlowEventBatch",
    "ReplayReport",
    "RequestBatch",
    "RulePolicy",
    "Session",
    "VerdictRequest",
    "__version__",
]

__version__: Final[str]
"""The version of the package."""

PROTOCOL_VERSION: Final[int]
"""The version of the extended interface that this package speaks."""

@final
class VerdictRequest:
    """A held packet that waits for a verdict. Immutable, hashable, equal by session and id.

    >>> with pk.open("synthetic:1") as kext:
    ...     request = next(kext)
    >>> request
    <VerdictRequest #...: outbound UDP 10.0.0.1:... -> ...:443, 92 bytes>
    >>> request.protocol, request.local_address, str(request.direction)
    (17, IPv4Address('10.0.0.1'), 'outbound')
    """

    @property
    def id(self) -> int:
        """The packet's name: never 0, never used again, up to 64 bits."""
    @property
    def time(self) -> int:
        """When the packet was presented: nanoseconds since 1970-01-01 00:00 UTC, by the
        capture's time stamps in replay."""
    @property
    def direction(self) -> Direction:
        """Which way the packet goes, seen from this machine."""
    @property
    def version(self) -> int:
        """The IP version, 4 or 6."""
    @property
    def protocol(self) -> int:
        """The IANA number of the transport protocol: 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6 …"""
    @property
    def local_address(self) -> IPv4Address | IPv6Address:
        """This machine's address."""
    @property
    def local_port(self) -> int:
        """This machine's port; an echo's identifier; 0 where the protocol has neither."""
    @property
    def remote_address(self) -> IPv4Address | IPv6Address:
        """The other end's address."""
    @property
    def remote_port(self) -> int:
        """The other end's port; 0 where the protocol has none, and for an echo."""
    @property
    def process_id(self) -> int | None:
        """The process that the packet belongs to; None when unknown."""
    @property
    def process_path(self) -> str | None:
        """The path of that process's program: `Kext.process_path` of it, asked for when it is read.
        None when the process or the path is unknown."""
    @property
    def interface(self) -> int:
        """The index of the interface that the packet enters or leaves by."""
    @property
    def sub_interface(self) -> int:
        """The index of the sub-interface; 0 where the system has none."""
    @property
    def compartment(self) -> int:
        """The network compartment or namespace; 0 when unknown."""
    @property
    def size(self) -> int:
        """The packet's length in bytes by its own IP header, 20 to 65,575."""
    @property
    def flags(self) -> int:
        """Bit 0: the packet was cut short before it was seen (a capture's snap length)."""
    @property
    def truncated(self) -> bool:
        """Bit 0 of `flags`: fewer bytes than `size` are held."""
    @property
    def payload(self) -> memoryview | None:
        """The packet's first bytes from its IP header on, read-only, as many as were asked for when
        it was received; None if that was none. Valid for as long as it is kept."""
    def accept(self, permanent: bool = True) -> None:
        """Let it go. This and the following raise as `Kext.set_verdict` does."""
    def block(self, permanent: bool = True) -> None:
        """Refuse it with a TCP reset or an ICMP unreachable message."""
    def drop(self, permanent: bool = True) -> None:
        """Discard it in silence."""
    def redirect_dns(self, permanent: bool = True) -> None:
        """Send it to the configured DNS resolver."""
    def redirect_tunnel(self, permanent: bool = True) -> None:
        """Send it to the configured tunnel entry."""
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self, /) -> int: ...

@final
class RequestBatch:
    """Requests that came together: one array for each thing that is known of them.

    Row *i* of each array is about the same request, `batch[i]`. The arrays are read-only views of
    the batch's own memory, valid for as long as they are kept. Anything that reads Arrow (pyarrow,
    polars, DuckDB, …) takes the batch as a table with the same columns, without a copy; there
    `time` is a timestamp in nanoseconds, addresses are binary of 16 bytes, and `payload` is binary.

    >>> with pk.open("synthetic:100") as kext:
    ...     batch = next(kext.batches(payload=28))
    ...     batch.set_verdicts(pk.Verdict.ACCEPT)[:3].tolist()
    [0, 0, 0]
    >>> batch.id.dtype, batch.remote_address.shape, batch.payload_offsets[:3].tolist()
    (dtype('uint64'), (100, 16), [0, 28, 56])
    >>> len(batch), batch[-1].id == int(batch.id[99])
    (100, True)
    """

    @property
    def id(self) -> npt.NDArray[np.uint64]:
        """The packets' names: never 0, never used again."""
    @property
    def time(self) -> npt.NDArray[np.uint64]:
        """When the packets were presented: nanoseconds since 1970-01-01 00:00 UTC."""
    @property
    def process_id(self) -> npt.NDArray[np.uint64]:
        """The processes that the packets belong to; 0 where unknown."""
    @property
    def local_address(self) -> npt.NDArray[np.uint8]:
        """This machine's addresses, (n, 16) bytes in network order; IPv4 as ::ffff:a.b.c.d."""
    @property
    def remote_address(self) -> npt.NDArray[np.uint8]:
        """The other ends' addresses, likewise."""
    @property
    def local_port(self) -> npt.NDArray[np.uint16]:
        """This machine's ports; an echo's identifier; 0 where the protocol has neither."""
    @property
    def remote_port(self) -> npt.NDArray[np.uint16]:
        """The other ends' ports; 0 where the protocol has none, and for an echo."""
    @property
    def version(self) -> npt.NDArray[np.uint8]:
        """IP versions, 4 or 6."""
    @property
    def protocol(self) -> npt.NDArray[np.uint8]:
        """The IANA numbers of the transport protocols."""
    @property
    def direction(self) -> npt.NDArray[np.uint8]:
        """Which way the packets go: codes of `Direction`."""
    @property
    def flags(self) -> npt.NDArray[np.uint8]:
        """Bit 0: the packet was cut short before it was seen."""
    @property
    def size(self) -> npt.NDArray[np.uint32]:
        """The packets' lengths in bytes by their IP headers."""
    @property
    def interface(self) -> npt.NDArray[np.uint32]:
        """Indices of the interfaces that the packets enter or leave by."""
    @property
    def sub_interface(self) -> npt.NDArray[np.uint32]:
        """Indices of the sub-interfaces; 0 where the system has none."""
    @property
    def compartment(self) -> npt.NDArray[np.uint32]:
        """Network compartments or namespaces; 0 where unknown."""
    @property
    def payload(self) -> npt.NDArray[np.uint8]:
        """The bytes of all packets, as many of each as were asked for."""
    @property
    def payload_offsets(self) -> npt.NDArray[np.uint32]:
        """Where each packet's bytes begin in `payload`, and at last where they end: n + 1 of them.
        Packet *i* is `payload[payload_offsets[i]:payload_offsets[i + 1]]`."""
    def set_verdicts(
        self,
        verdicts: npt.ArrayLike,
        permanent: bool | npt.ArrayLike = True,
    ) -> npt.NDArray[np.uint8]:
        """Decide all of them, as `Kext.set_verdicts` does; the outcomes as codes of `Outcome`."""
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: SupportsIndex, /) -> VerdictRequest:
        """One request; from the end if negative."""
    @overload
    def __getitem__(self, index: slice, /) -> RequestBatch:
        """Requests that follow each other as a batch of their own, in the same memory."""
    def __iter__(self) -> Iterator[VerdictRequest]: ...
    def __arrow_c_schema__(self) -> object:
        """The table's schema, by the Arrow PyCapsule interface."""
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        """Schema and table, by the Arrow PyCapsule interface; a schema asked for is not heeded."""
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The table as a stream of one batch, likewise."""

@final
class Flow:
    """A flow whose verdict is cached, or was, with its traffic so far."""

    @property
    def version(self) -> int:
        """The IP version, 4 or 6."""
    @property
    def protocol(self) -> int:
        """The IANA number of the transport protocol."""
    @property
    def local_address(self) -> IPv4Address | IPv6Address:
        """This machine's address."""
    @property
    def local_port(self) -> int:
        """This machine's port; an echo's identifier; 0 where the protocol has neither."""
    @property
    def remote_address(self) -> IPv4Address | IPv6Address:
        """The other end's address."""
    @property
    def remote_port(self) -> int:
        """The other end's port; 0 where the protocol has none, and for an echo."""
    @property
    def verdict(self) -> Verdict:
        """The verdict that stands for the flow."""
    @property
    def origin(self) -> str:
        """Why it is cached: `"verdict"`, `"update"`, or `"way_back"` for the answers of a
        redirected flow."""
    @property
    def process_id(self) -> int | None:
        """The process that the flow belongs to; None when unknown."""
    @property
    def packets_out(self) -> int:
        """Packets from this machine."""
    @property
    def packets_in(self) -> int:
        """Packets to this machine."""
    @property
    def bytes_out(self) -> int:
        """Bytes from this machine, by the packets' IP headers."""
    @property
    def bytes_in(self) -> int:
        """Bytes to this machine, by the packets' IP headers."""
    @property
    def first_seen(self) -> int:
        """The time of the first packet, in nanoseconds since 1970-01-01 00:00 UTC."""
    @property
    def last_seen(self) -> int:
        """The time of the last packet, ICMP errors about the flow left aside, in nanoseconds since
        1970-01-01 00:00 UTC."""
    @property
    def payload_out(self) -> int:
        """Bytes of payload that programs of this machine have sent: TCP's stream, datagrams without
        their headers. 0 where the host sees no payload, as in a replay."""
    @property
    def payload_in(self) -> int:
        """Bytes of payload that programs of this machine have received, likewise."""

@final
class FlowBatch:
    """The cached flows: one array for each thing that is known of them, as in `RequestBatch`."""

    @property
    def local_address(self) -> npt.NDArray[np.uint8]:
        """This machine's addresses, (n, 16) bytes in network order; IPv4 as ::ffff:a.b.c.d."""
    @property
    def remote_address(self) -> npt.NDArray[np.uint8]:
        """The other ends' addresses, likewise."""
    @property
    def local_port(self) -> npt.NDArray[np.uint16]:
        """This machine's ports; an echo's identifier; 0 where the protocol has neither."""
    @property
    def remote_port(self) -> npt.NDArray[np.uint16]:
        """The other ends' ports; 0 where the protocol has none, and for an echo."""
    @property
    def version(self) -> npt.NDArray[np.uint8]:
        """IP versions, 4 or 6."""
    @property
    def protocol(self) -> npt.NDArray[np.uint8]:
        """The IANA numbers of the transport protocols."""
    @property
    def verdict(self) -> npt.NDArray[np.uint8]:
        """The verdicts that stand for the flows: codes of `Verdict`."""
    @property
    def origin(self) -> npt.NDArray[np.uint8]:
        """Why they are cached: codes of `FlowOrigin`."""
    @property
    def process_id(self) -> npt.NDArray[np.uint64]:
        """The processes that the flows belong to; 0 where unknown."""
    @property
    def packets_out(self) -> npt.NDArray[np.uint64]:
        """Packets from this machine."""
    @property
    def packets_in(self) -> npt.NDArray[np.uint64]:
        """Packets to this machine."""
    @property
    def bytes_out(self) -> npt.NDArray[np.uint64]:
        """Bytes from this machine, by the packets' IP headers."""
    @property
    def bytes_in(self) -> npt.NDArray[np.uint64]:
        """Bytes to this machine, by the packets' IP headers."""
    @property
    def first_seen(self) -> npt.NDArray[np.uint64]:
        """Times of the first packets: nanoseconds since 1970-01-01 00:00 UTC."""
    @property
    def last_seen(self) -> npt.NDArray[np.uint64]:
        """Times of the last packets, likewise."""
    @property
    def payload_out(self) -> npt.NDArray[np.uint64]:
        """Bytes of payload that programs of this machine have sent; 0 where the host sees none."""
    @property
    def payload_in(self) -> npt.NDArray[np.uint64]:
        """Bytes of payload that programs of this machine have received, likewise."""
    def __len__(self) -> int: ...
    def __arrow_c_schema__(self) -> object:
        """The table's schema, by the Arrow PyCapsule interface."""
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        """Schema and table, by the Arrow PyCapsule interface; a schema asked for is not heeded."""
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The table as a stream of one batch, likewise."""

@final
class FlowEventBatch:
    """Flows that have ended: one array for each thing that is known of them, as in
    `RequestBatch`."""

    @property
    def local_address(self) -> npt.NDArray[np.uint8]:
        """This machine's addresses, (n, 16) bytes in network order; IPv4 as ::ffff:a.b.c.d."""
    @property
    def remote_address(self) -> npt.NDArray[np.uint8]:
        """The other ends' addresses, likewise."""
    @property
    def local_port(self) -> npt.NDArray[np.uint16]:
        """This machine's ports; an echo's identifier; 0 where the protocol has neither."""
    @property
    def remote_port(self) -> npt.NDArray[np.uint16]:
        """The other ends' ports; 0 where the protocol has none, and for an echo."""
    @property
    def version(self) -> npt.NDArray[np.uint8]:
        """IP versions, 4 or 6."""
    @property
    def protocol(self) -> npt.NDArray[np.uint8]:
        """The IANA numbers of the transport protocols."""
    @property
    def verdict(self) -> npt.NDArray[np.uint8]:
        """The verdicts that stand for the flows: codes of `Verdict`."""
    @property
    def origin(self) -> npt.NDArray[np.uint8]:
        """Why they are cached: codes of `FlowOrigin`."""
    @property
    def process_id(self) -> npt.NDArray[np.uint64]:
        """The processes that the flows belong to; 0 where unknown."""
    @property
    def packets_out(self) -> npt.NDArray[np.uint64]:
        """Packets from this machine."""
    @property
    def packets_in(self) -> npt.NDArray[np.uint64]:
        """Packets to this machine."""
    @property
    def bytes_out(self) -> npt.NDArray[np.uint64]:
        """Bytes from this machine, by the packets' IP headers."""
    @property
    def bytes_in(self) -> npt.NDArray[np.uint64]:
        """Bytes to this machine, by the packets' IP headers."""
    @property
    def first_seen(self) -> npt.NDArray[np.uint64]:
        """Times of the first packets: nanoseconds since 1970-01-01 00:00 UTC."""
    @property
    def last_seen(self) -> npt.NDArray[np.uint64]:
        """Times of the last packets, likewise."""
    @property
    def payload_out(self) -> npt.NDArray[np.uint64]:
        """Bytes of payload that programs of this machine have sent; 0 where the host sees none."""
    @property
    def payload_in(self) -> npt.NDArray[np.uint64]:
        """Bytes of payload that programs of this machine have received, likewise."""
    def __len__(self) -> int: ...
    def __arrow_c_schema__(self) -> object:
        """The table's schema, by the Arrow PyCapsule interface."""
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        """Schema and table, by the Arrow PyCapsule interface; a schema asked for is not heeded."""
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The table as a stream of one batch, likewise."""
    @property
    def end(self) -> npt.NDArray[np.uint8]:
        """Why they ended: codes of `FlowEnd`."""
    @property
    def lost(self) -> int:
        """How many ended flows found no room since the device was opened."""
    @property
    def waiting(self) -> int:
        """How many wait still."""

@final
class ReplayReport:
    """How far a replay has come."""

    @property
    def records(self) -> int:
        """Packets read from the file."""
    @property
    def presented(self) -> int:
        """IP packets presented to the extension."""
    @property
    def not_ip(self) -> int:
        """Packets that are not IP, such as ARP. The extension does not see them."""
    @property
    def too_short(self) -> int:
        """Packets too short to hold a link-layer header."""
    @property
    def malformed(self) -> int:
        """Packets that are too short for an IP packet, or whose headers cannot be walked."""
    @property
    def first_malformed(self) -> list[str]:
        """The first 16 of them in words: which record, where in the file, and what is wrong."""
    @property
    def guessed(self) -> int:
        """Packets with both ends local or neither, of which the lower end was taken as local."""
    @property
    def local(self) -> str:
        """The local networks, and whether they were given or inferred, in words."""
    @property
    def local_inferred(self) -> bool:
        """Whether the local networks were inferred from the capture."""
    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far."""
    @property
    def bytes_total(self) -> int:
        """Bytes of the file."""
    @property
    def first_time(self) -> int | None:
        """The first packet's time in nanoseconds since 1970-01-01 00:00 UTC; None before it."""
    @property
    def last_time(self) -> int | None:
        """The last packet's time in nanoseconds since 1970-01-01 00:00 UTC; None before any."""

@final
class Session:
    """The Rust client's session, and the iterator of its requests.

    `portmaster_kext.Kext` is the public face of it.
    """

    def __new__(
        cls,
        device: str,
        local: list[str],
        output: str | None,
        realtime: bool,
        config: Config,
        capacities: Capacities,
        payload: int,
        max_requests: int,
        flush_interval: float,
    ) -> Session: ...
    @property
    def device(self) -> str:
        """The device string."""
    @property
    def closed(self) -> bool:
        """Whether the session has been closed."""
    def __iter__(self) -> Session: ...
    def __next__(self) -> VerdictRequest:
        """The next request; ends with the capture or the session."""
    def set_verdict(self, packet_id: int, verdict: int, permanent: bool) -> None:
        """Decide a held packet by a verdict's number, 2 to 6."""
    def set_verdicts(
        self,
        ids: npt.ArrayLike,
        verdicts: npt.ArrayLike,
        permanent: bool | npt.ArrayLike,
    ) -> npt.NDArray[np.uint8]:
        """Decide many held packets; codes of `Outcome`."""
    def flush(self) -> None:
        """Send the verdicts that wait; raises what became of the first that was not applied."""
    def cancel(self) -> None:
        """End the waits of now."""
    def batches(self, max_requests: int, max_wait: float | None, payload: int) -> Batches:
        """The requests in batches; `payload` is bytes, or 2**32 - 1 for the whole packet."""
    def get_payload(self, packet_id: int) -> bytes:
        """The bytes of a held packet."""
    def process_path(self, process_id: int) -> str | None:
        """The path of a process's program, if it is known."""
    def counters(self) -> list[tuple[str, int, int]]:
        """Name, disposition (255 for no packet's end) and value of every counter."""
    def list_flows(self, cursor: int, most: int) -> tuple[list[Flow], int | None]:
        """A page of cached flows, and the cursor of the next; None at the end. Begins with 0."""
    def flow_batch(self) -> FlowBatch:
        """All cached flows as arrays."""
    def clear_cache(self) -> None:
        """Empty the verdict cache."""
    def get_config(self) -> Config:
        """The configuration in force."""
    def set_config(self, config: Config) -> None:
        """Put a configuration in force."""
    def replay_report(self) -> ReplayReport | None:
        """How far the replay has come; None for a live device."""
    def close(self) -> None:
        """End the session."""

@final
class Batches:
    """The iterator that `Kext.batches` returns."""

    def __iter__(self) -> Batches: ...
    def __next__(self) -> RequestBatch:
        """The next batch; ends with the capture or the session."""

@final
class EndedFlows:
    """The flows that have left the verdict cache since this was made, each given once.

    `portmaster_kext.ConnectionEvents` is the public face of it.
    """

    def __new__(cls, session: Session) -> EndedFlows: ...
    def next(self) -> tuple[Flow, int] | None:
        """The next one, with the code of its `FlowEnd`; None where none waits."""
    def columns(self, most: int) -> FlowEventBatch:
        """At most so many as arrays."""
    @property
    def lost(self) -> int:
        """How many found no room, as of the last look."""
    def close(self) -> None:
        """Keep no more of them, and forget those that wait."""

@final
class AsyncReader:
    """Gives the requests of a session that have come, and has a thread wait for more.

    `AsyncKext` has one. The thread is started by the first wish.
    """

    def __new__(cls, session: Session, notify: Callable[[], object]) -> AsyncReader:
        """`notify` is called in the thread when something has arrived."""
    def begin_again(self) -> None:
        """Forget that there were no more."""
    def next_request(self) -> VerdictRequest | None:
        """The next request; None if none is at hand. `StopAsyncIteration` at the end."""
    def next_batch(self, max_requests: int) -> RequestBatch | None:
        """The next batch, likewise."""
    def empty_batch(self, payload: int) -> RequestBatch:
        """A batch of no requests."""
    def wish(self, max_requests: int, payload: int, at_once: bool) -> bool:
        """Have the thread fetch a batch, unless it is at it, and wait for it unless `at_once`.

        False if it waits already, and nothing is at hand.
        """
    def stop(self) -> None:
        """End the thread; `notify` is called once more if it had a wish."""

@final
class RulePolicy:
    """Compiled rules. `portmaster_kext.Policy` is the public face of it."""

    @staticmethod
    def from_rules(rules: Sequence[Rule], default: tuple[int, bool] | None) -> RulePolicy:
        """Compile rules; the default is a verdict's number, and whether it is permanent."""
    @staticmethod
    def from_toml(text: str) -> RulePolicy:
        """The policy of a rule file's text."""
    @property
    def rules(
        self,
    ) -> list[
        tuple[
            int,
            bool,
            str | None,
            int | None,
            int | None,
            list[int] | None,
            list[str] | None,
            list[str] | None,
            list[str] | None,
            list[str] | None,
            list[int] | None,
        ]
    ]:
        """The rules, each as the arguments of `Rule`."""
    @property
    def default(self) -> tuple[int, bool] | None:
        """The default, as in `from_rules`."""
    @property
    def hits(self) -> list[int]:
        """How many requests each rule has matched."""
    @property
    def misses(self) -> int:
        """How many requests no rule has matched."""
    def decide(
        self, batch: RequestBatch, leave_misses: bool
    ) -> tuple[
        npt.NDArray[np.int8],
        npt.NDArray[np.uint16],
        npt.NDArray[np.uint8],
        int,
    ]:
        """Set the verdicts of a batch, those of misses by the default unless they are to be left.

        Verdict numbers (negative for one packet, 0 for none), rules, outcomes; and the misses.
        """
    @staticmethod
    def set_rows(batch: RequestBatch, rows: list[int], numbers: list[int]) -> list[int]:
        """Set the verdicts of some requests of a batch; their outcomes."""
