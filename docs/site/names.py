"""Public names of the package in text: `Kext.flush` and `kext.flush()` become links.

One rule for docstrings, by the Griffe extension below, and for pages, by `hooks.py`. Only
code spans are looked at, never code blocks. A name that begins like one of ours and is none is
reported: the site is built with warnings as errors, so no page can speak of what is not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container

import griffe

PACKAGE = "portmaster_kext"

_log = griffe.get_logger("portmaster-kext")

VARIABLES = {
    "pk": "",
    "kext": "Kext.",
    "request": "VerdictRequest.",
    "batch": "RequestBatch.",
}
"""What examples call things, and what these are."""

_FENCE = re.compile(r"^[ \t]*(```|~~~)")
_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)
_OPTION = re.compile(r" *# doctest: .*")
# A link's text is left alone, and so is a span inside of longer backticks.
_SPAN = re.compile(r"(?<![`\[\w])`([A-Za-z_][\w.]*)((?:\([^`]*\))?)`(?![`\w]|\]\()")


class Names:
    """The public names of the package, and which of them a code span means."""

    def __init__(self, package: griffe.Module) -> None:
        self._package = package
        self.public = frozenset(map(str, package.exports or ()))
        """The names that the package exports."""

    def linked(
        self,
        text: str,
        missing: Callable[[str], None],
        *,
        owner: str | None = None,
        parameters: Container[str] = (),
    ) -> str:
        """The text with its names as links.

        `owner` is the class that the text is about: its members are known by their names alone,
        unless the function at hand has a parameter of that name. `missing` is told of each name
        that should be there and is not.
        """

        def span(found: re.Match[str]) -> str:
            name = self._meant(found[1], owner, parameters)
            if name is None:
                return found[0]
            if not self._exists(name):
                missing(found[1])
                return found[0]
            return f"[{found[0]}][{PACKAGE}.{name}]"

        lines = []
        fenced = False
        for line in text.split("\n"):
            if _FENCE.match(line):
                fenced = not fenced
            elif not fenced and not line.startswith("#"):
                line = _SPAN.sub(span, line)
            lines.append(line)
        return "\n".join(lines)

    def _meant(self, name: str, owner: str | None, parameters: Container[str]) -> str | None:
        """The public name that is meant, whether it exists or not; None for another word."""
        first, dot, rest = name.partition(".")
        if dot and first in VARIABLES:
            return VARIABLES[first] + rest
        if first in self.public and (dot or first not in parameters):
            return name
        if owner is not None and not dot and name not in parameters:
            member = f"{owner}.{name}"
            return member if self._exists(member) else None
        return None

    def _exists(self, name: str) -> bool:
        """Whether the package has this public name, or this public member of one."""
        first, *rest = name.split(".")
        if first not in self.public or any(part.startswith("_") for part in rest):
            return False
        thing: griffe.Object | griffe.Alias = self._package[first]
        for part in rest:
            found = thing.all_members.get(part)
            if found is None:
                return False
            thing = found
        return True


def load() -> griffe.Module:
    """The package, read from its sources and the stub of its compiled half."""
    package = griffe.load(PACKAGE, search_paths=["python"], allow_inspection=False)
    assert isinstance(package, griffe.Module)
    return package


class Docstrings(griffe.Extension):
    """Rewrites every docstring of the package once it has been read: names, and examples."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Link the names in the docstrings of everything that is public."""
        if pkg.name != PACKAGE:
            return
        names = Names(pkg)
        done: set[int] = set()
        # What classes inherit from one that is not public is linked to the plainest: `Kext`.
        for name in sorted(names.public, key=lambda name: (len(name), name)):
            _link(pkg[name], names, None, done)


def _link(
    given: griffe.Object | griffe.Alias, names: Names, owner: str | None, done: set[int]
) -> None:
    """Rewrite the docstrings of a thing and its members, unless they are done."""
    thing = given.final_target if isinstance(given, griffe.Alias) else given
    if id(thing) in done:
        return
    done.add(id(thing))
    inner = thing.name if thing.is_class else owner
    if thing.docstring is not None:
        parameters = (
            {one.name for one in thing.parameters} if isinstance(thing, griffe.Function) else set()
        )

        def missing(name: str) -> None:
            _log.warning(f"{thing.path}: its docstring names `{name}`, which is not public")

        thing.docstring.value = names.linked(
            _fenced(thing.docstring.value), missing, owner=inner, parameters=parameters
        )
    if thing.is_class:
        for member in thing.all_members.values():
            _link(member, names, inner, done)


def _fenced(docstring: str) -> str:
    """Doctests as blocks of code: for Markdown `>>>` is a quotation."""
    return _EXAMPLE.sub(lambda found: f"```pycon\n{_OPTION.sub('', found[0])}\n```", docstring)
