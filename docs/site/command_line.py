"""The command line's reference, as Markdown, from its `argparse` parser."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Iterator

_CODE = re.compile(
    r"(?<![\w`])(--[a-z][a-z-]*|\w+\([\w, ]*\)(?: -> [\w |]*\w)?)(?![\w`])",
)
"""Options, and calls with what they return."""


def reference(parser: argparse.ArgumentParser) -> str:
    """A section for each command: usage, description, arguments, options."""
    return "\n".join(_sections(parser))


def _sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from _section(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _sections(command)


def _section(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## `{parser.prog}` {{ #{parser.prog.replace(' ', '-')} }}\n"
    if parser.description:
        yield f"{_text(parser.description)}\n"
    yield "```text"
    yield _usage(parser)
    yield "```\n"
    for group in parser._action_groups:
        rows = [row for action in group._group_actions for row in _rows(action)]
        if rows:
            yield f"**{(group.title or '').capitalize()}**\n"
            for name, about in rows:
                yield name
                yield f":   {about}\n"
    if parser.epilog:
        yield f"{_text(parser.epilog)}\n"


def _usage(parser: argparse.ArgumentParser) -> str:
    # Not as wide as the terminal that this happens to be built in.
    parser.formatter_class = functools.partial(argparse.HelpFormatter, width=80)
    return parser.format_usage().strip()


def _rows(action: argparse.Action) -> Iterator[tuple[str, str]]:
    """Names and explanation of an argument, or of each command."""
    if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
        return
    if isinstance(action, argparse._SubParsersAction):
        for command in action._choices_actions:
            parser = action.choices[command.dest]
            anchor = parser.prog.replace(" ", "-")
            yield f"[`{command.dest}`](#{anchor})", _sentence(command.help or "")
        return
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        name = f"`{value}`"
    elif action.nargs == 0:
        name = ", ".join(f"`{option}`" for option in action.option_strings)
    else:
        name = ", ".join(f"`{option} {value}`" for option in action.option_strings)
    filled = (action.help or "") % {**vars(action), "prog": ""}
    yield name, _sentence(filled)


def _sentence(text: str) -> str:
    text = _text(text)
    return f"{text[:1].upper()}{text[1:]}."


def _text(text: str) -> str:
    """Help is plain text: what Markdown would take for its own is code."""
    return _CODE.sub(r"`\1`", text)
