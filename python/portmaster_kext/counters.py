"""The extension's counters at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

DISPOSITIONS = ("permitted", "blocked", "dropped", "redirected")
"""The four ways in which a packet can end, in the order of their numbers."""

_NO_END = 255


class Counters(Mapping[str, int]):
    """How many packets ended for which reason: a mapping from the reason's name to its count.

    Every packet that was seen is counted under exactly one reason or still held, so at any quiet
    moment `seen == permitted + blocked + dropped + redirected + held`; `balanced` checks it.
    Reasons that never happened are there with 0.
    """

    __slots__ = ("_events", "_reasons", "_sums")

    def __init__(self, entries: Iterable[tuple[str, int, int]]) -> None:
        """From entries of name, disposition (255 for no packet's end) and value."""
        reasons: dict[str, int] = {}
        events: dict[str, int] = {}
        self._sums = dict.fromkeys(DISPOSITIONS, 0)
        for name, disposition, value in entries:
            if disposition == _NO_END:
                events[name] = value
            else:
                reasons[name] = value
                self._sums[DISPOSITIONS[disposition]] += value
        self._reasons = reasons
        self._events = events

    @property
    def seen(self) -> int:
        """Packets presented to the extension."""
        return self._events.get("seen", 0)

    @property
    def permitted(self) -> int:
        """Packets that went on unchanged."""
        return self._sums["permitted"]

    @property
    def blocked(self) -> int:
        """Packets that were refused."""
        return self._sums["blocked"]

    @property
    def dropped(self) -> int:
        """Packets that were discarded in silence."""
        return self._sums["dropped"]

    @property
    def redirected(self) -> int:
        """Packets that went on with another address or port."""
        return self._sums["redirected"]

    @property
    def held(self) -> int:
        """Packets that are held now."""
        return self._events.get("held", 0)

    @property
    def requests(self) -> int:
        """Verdict requests raised."""
        return self._events.get("requests", 0)

    @property
    def injected(self) -> int:
        """Answers injected for blocked packets: TCP resets and ICMP messages."""
        events = self._events
        return events.get("injected_reset", 0) + events.get("injected_unreachable", 0)

    @property
    def injections_refused(self) -> int:
        """Packets that were let go and lost in the end, as the network stack refused them later."""
        return self._events.get("injections_refused", 0)

    @property
    def events(self) -> Mapping[str, int]:
        """The counted things that are no packet's end, by name."""
        return MappingProxyType(self._events)

    @property
    def balanced(self) -> bool:
        """Whether every packet that was seen is accounted for."""
        return self.seen == sum(self._sums.values()) + self.held

    def __getitem__(self, reason: str) -> int:
        return self._reasons[reason]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reasons)

    def __len__(self) -> int:
        return len(self._reasons)

    def __eq__(self, other: object) -> bool:
        # A mapping would compare the reasons alone.
        if not isinstance(other, Counters):
            return NotImplemented
        return (self._reasons, self._events) == (other._reasons, other._events)

    __hash__ = None  # type: ignore[assignment] # as for every mapping

    def __str__(self) -> str:
        """The balance, then one line for each reason that happened."""
        sums = " + ".join(f"{name} {self._sums[name]:,}" for name in DISPOSITIONS)
        sign = "=" if self.balanced else "!="
        lines = [f"seen {self.seen:,} {sign} {sums} + held {self.held:,}"]
        lines += [f"  {name:<28}{value:>12,}" for name, value in self.items() if value]
        lines.append(f"requests {self.requests:,}, injected {self.injected:,}")
        if self.injections_refused:
            lines.append(f"lost after they were let go {self.injections_refused:,}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        sums = ", ".join(f"{name}={self._sums[name]}" for name in DISPOSITIONS)
        return f"<Counters seen={self.seen}, {sums}, held={self.held}>"
