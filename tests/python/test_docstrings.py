"""The examples in docstrings do what they show: those of the package, and those of its stub."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import enum
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import portmaster_kext as pk
import pytest

FLAGS = doctest.ELLIPSIS
NAMES = {"pk": pk, "np": np, "dataclasses": dataclasses}
"""What examples may use without an import."""

STUB = Path(pk.__file__).parent / "_native.pyi"


def of_modules() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for info in pkgutil.walk_packages(pk.__path__, "portmaster_kext."):
        if not info.name.endswith(("_native", "__main__")):
            yield from finder.find(importlib.import_module(info.name), globs=dict(NAMES))


def of_stub() -> Iterator[doctest.DocTest]:
    """The native classes are documented in the stub; compiled code has no place for it."""
    parser = doctest.DocTestParser()

    def below(node: ast.Module | ast.ClassDef, name: str) -> Iterator[doctest.DocTest]:
        for child in node.body:
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)):
                own = f"{name}.{child.name}"
                text = ast.get_docstring(child) or ""
                yield parser.get_doctest(text, dict(NAMES), own, str(STUB), child.lineno)
            if isinstance(child, ast.ClassDef):
                yield from below(child, own)

    yield from below(ast.parse(STUB.read_text("utf-8")), "_native")


EXAMPLES = {test.name: test for test in (*of_modules(), *of_stub()) if test.examples}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_what_it_shows(name):
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    result = runner.run(EXAMPLES[name], out=report.append)
    assert result.failed == 0, "".join(report)
    assert result.attempted > 0


def test_examples_are_not_skipped():
    for test in EXAMPLES.values():
        for example in test.examples:
            assert doctest.SKIP not in example.options, test.name


def test_everything_that_people_use_has_an_example():
    """Enumerations and errors have their values; some classes are only met in the use of others."""
    met = {"AsyncBatches", "OpeningKext", "PolicyDecisions", "FlowEvent"}
    met |= {"Flow", "FlowBatch", "FlowEventBatch", "ReplayReport", "ConnectionEvents", "Counters"}
    shown = {part for name in EXAMPLES for part in name.split(".")}
    for name in set(pk.__all__) - met:
        value = getattr(pk, name)
        if isinstance(value, type) and issubclass(value, (enum.Enum, Exception, tuple)):
            continue
        if callable(value):
            assert name in shown, f"{name} has no example"
