"""A progress bar on a terminal; nothing anywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO

from portmaster_kext.session import Kext

_WIDTH = 40
_INTERVAL_S = 0.1
"""Time between two drawings, so that the bar costs nothing."""


class Progress:
    """Draws how much of the file has been read, and takes itself away at the end."""

    def __init__(self, stream: TextIO, kext: Kext, *, enabled: bool) -> None:
        """Without `enabled` nothing is drawn, as on a stream that is no terminal."""
        self._stream = stream
        self._kext = kext
        self._shown = False
        self._next = time.monotonic() + _INTERVAL_S
        self._enabled = enabled and stream.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._shown:
            # Return to the line's begin and erase it (ECMA-48 EL).
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def update(self) -> None:
        """Draw, if it is time to."""
        if not self._enabled or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _INTERVAL_S
        report = self._kext.replay_report()
        if report is None or not report.bytes_total:
            return
        share = min(1.0, report.bytes_read / report.bytes_total)
        bar = "#" * round(share * _WIDTH)
        self._stream.write(f"\r[{bar:<{_WIDTH}}] {share:4.0%}  {report.records:,} packets")
        self._stream.flush()
        self._shown = True
