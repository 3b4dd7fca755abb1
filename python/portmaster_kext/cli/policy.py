"""Policy files in Python: loading one, and asking it. Those of rules are in `rules`.

Such a file defines `decide(request, kext) -> Verdict | None`. A verdict is
permanent. None stands for the default verdict, unless `decide` has decided the request itself, by
`request.drop(permanent=False)` for example.
"""

from __future__ import annotations

import reprlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from portmaster_kext._native import VerdictRequest
from portmaster_kext.errors import AlreadyDecidedError, Error, NotHeldError
from portmaster_kext.session import Kext
from portmaster_kext.verdicts import Decision, Verdict

Decide = Callable[[VerdictRequest, Kext], object]

MODULE = "portmaster_kext_policy"
"""The name that a policy file runs under."""


class LoadError(Exception):
    """The file cannot be used as a policy; the message says where and why."""


class AskError(Exception):
    """The policy failed while it was asked; the message is complete, with a traceback if any."""


def load(path: str) -> Decide:
    """Run the file and return its `decide`. Raises `LoadError`."""
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise LoadError(f"policy {path}: cannot be read: {error.strerror}") from None
    module = ModuleType(MODULE)
    module.__file__ = path
    # Dataclasses and pickling look their module up by name.
    sys.modules[MODULE] = module
    try:
        # Not the import system: it would leave byte code beside somebody else's file.
        exec(compile(source, path, "exec"), module.__dict__)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise LoadError(f"{_shown(error)}policy {path}: cannot be loaded") from None
    decide = getattr(module, "decide", None)
    if decide is None:
        raise LoadError(f"policy {path}: does not define decide(request, kext)")
    if not callable(decide):
        raise LoadError(f"policy {path}: decide is a {type(decide).__name__}, not a function")
    checked: Decide = decide
    return checked


def ask(decide: Decide, path: str, request: VerdictRequest, kext: Kext) -> Verdict | None:
    """What the policy says. Raises `AskError` if it fails or returns neither of the two."""
    try:
        answer = decide(request, kext)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise AskError(f"{_shown(error)}policy {path}: failed on {request!r}") from None
    if answer is None or isinstance(answer, Verdict):
        return answer
    names = ", ".join(f"Verdict.{verdict.name}" for verdict in Verdict)
    raise AskError(
        # The policy's own class may have a `__repr__` that fails, or that has no end.
        f"policy {path}: decide() returned {reprlib.repr(answer)} ({type(answer).__name__}) for "
        f"{request!r}; it must return None or one of {names}"
    )


def settle(
    request: VerdictRequest, kext: Kext, answer: Verdict | None, default: Verdict
) -> tuple[Decision | None, str]:
    """Apply the answer, and tell what decided the request and how it ended.

    The second part is `"applied"`, or `"evicted"`, `"expired"` or `"abandoned"` for a packet that
    was settled before the verdict came; then there is no decision. Raises `AskError` if
    `decide` had decided the request and then returned another verdict.
    """
    verdict = default if answer is None else answer
    try:
        kext.set_verdict(request.id, verdict)
    except AlreadyDecidedError as error:
        # Only `decide` itself can have been there first.
        if answer is None or error.first == Decision(answer, True):
            return error.first, "applied"
        raise AskError(
            f"policy: decide() set the verdict {error.first} for {request!r} and then returned "
            f"{answer}; one request gets one verdict"
        ) from None
    except NotHeldError as error:
        return None, error.reason
    return Decision(verdict, True), "applied"


def standing(request: VerdictRequest, kext: Kext) -> tuple[Decision | None, str]:
    """What has become of a request whose policy failed, as `settle` tells it."""
    try:
        kext.get_payload(request.id)
    except AlreadyDecidedError as error:
        return error.first, "applied"
    except NotHeldError as error:
        return None, error.reason
    except Error:
        pass
    # Closing settles it.
    return None, "abandoned"


def _shown(error: BaseException) -> str:
    """The error with its traceback, without the outermost frame, which is this module's."""
    trace = error.__traceback__
    inner = None if trace is None else trace.tb_next
    return "".join(traceback.format_exception(error.with_traceback(inner)))
