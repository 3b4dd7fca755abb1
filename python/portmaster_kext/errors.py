"""Every exception that this package raises on its own account.

All of them are an `Error`. Where Python has a built-in class for the same thing, the exception is
that too, so that code which knows nothing of this package still catches it.
"""

from __future__ import annotations

from portmaster_kext.verdicts import Decision, Verdict


class Error(Exception):
    """The base of all exceptions of this package."""

    def __str__(self) -> str:
        """The message: what was wrong, where, and what to do."""
        return str(self.args[0]) if self.args else type(self).__name__


class _IdError(Error):
    """An error about one packet."""

    def __init__(self, message: str, packet_id: int) -> None:
        super().__init__(message, packet_id)
        self.id = packet_id
        """The id that the call was given."""


class UnknownIdError(_IdError, LookupError):
    """No packet of this id is held: it was never given, or is too long settled to be remembered."""


class AlreadyDecidedError(_IdError):
    """An earlier verdict has decided the packet; `first` tells which. It stands."""

    def __init__(self, message: str, packet_id: int, verdict: int, permanent: bool) -> None:
        super().__init__(message, packet_id)
        self.args = (message, packet_id, verdict, permanent)
        self.first = Decision(Verdict(verdict), permanent)
        """The decision that stands."""


class NotHeldError(_IdError, LookupError):
    """The packet was settled without a verdict before one came; `reason` tells how.

    A reader that is slow meets this in normal operation and can go on. For verdicts that are sent
    together, `Kext.flush` raises it.
    """

    def __init__(self, message: str, packet_id: int, reason: str) -> None:
        super().__init__(message, packet_id)
        self.args = (message, packet_id, reason)
        self.reason = reason
        """`"evicted"`: dropped to make room for newer packets. `"expired"`: the hold limit was
        reached and policy decided. `"abandoned"`: the reader it was asked of had gone."""


class InvalidVerdictError(Error, ValueError):
    """The value is no verdict. Nothing was decided; the packet is still held."""


class ClosedError(Error):
    """The device has been closed; open it again."""


class ForkError(Error):
    """The session was opened by the process that this one was forked from.

    The device is the parent's. Open it again in the child, or start the child in another way.
    """


class CancelledError(Error):
    """The wait was cancelled from elsewhere. No request was lost."""


class DeviceError(Error, ValueError):
    """The device string is not understood, or names a device that cannot be had."""


class CaptureError(Error):
    """A capture file cannot be read, or not to its end; or packets cannot be written to one.

    Packets before the fault have been processed as usual.
    """


class ConfigError(Error, ValueError):
    """A configuration value is out of its range, or a network is none; nothing was changed."""


class ProtocolMismatchError(Error):
    """The extension does not speak this package's version of the protocol."""


class ExtensionError(Error):
    """The extension refused a call for a reason that has no exception of its own, or is lost."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.status = status
        """The NTSTATUS value."""


class LoopError(Error, RuntimeError):
    """No event loop is running, or another than the session was opened in."""


class PolicyError(Error, ValueError):
    """Rules are no policy, or a file is none of them. Says where, and what to write instead."""

    def __init__(
        self,
        message: str,
        rule: int | None = None,
        key: str | None = None,
        place: tuple[int, int] | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(message)
        self.args = (message, rule, key, place, path)
        self.rule = rule
        """The index of the rule, from 0; None if it is not about one."""
        self.key = key
        """The condition, and the index of the item where there are several: `"remote[2]"`."""
        self.path = path
        """The file, if there is one."""
        self.line = None if place is None else place[0]
        """The line in the file, from 1; None if the rules come from a program."""
        self.column = None if place is None else place[1]
        """The column, likewise."""
