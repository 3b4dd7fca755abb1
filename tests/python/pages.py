"""The code blocks of the documentation, read from Markdown and run as a reader would.

A page is a session of its own, in a folder of its own with the recorded captures in it. Its blocks
run from the top, and what a fence says decides what a block is:

- `python`: run, in one namespace for the page.
- `text` right after such a block: what that block prints.
- `console`: commands after `$`, each followed by what it prints, standard error included.
- any language with `title="name"`: a file of that name, for the blocks below.
- a comment `<!-- not run: reason -->` above a fence: left out, and the reader is told why.
- no language: a picture.

Anything else is refused, so that nobody adds a block that no test looks at. Where output differs
from run to run, `…` stands for what differs. With `BLESS_PAGES=1` in the environment a page is
rewritten with the output that was seen; read the difference that it made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shlex
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path

_FENCE = re.compile(
    r"""^(?P<indent>[ ]*)(?P<ticks>```+)[ ]*(?P<language>[\w+-]*)
    (?:[ ]+(?P<options>[^\n`]*))?\n
    (?P<text>.*?)
    ^(?P=indent)(?P=ticks)[ ]*$""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_TITLE = re.compile(r'title="([^"]+)"')
_NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\s*\Z")
_SNIPPET = re.compile(r'\A--8<-- "([^"]+)"\s*\Z')
_COMMAND = re.compile(r"(?:[^\n]*\\\n)*[^\n]*")

SECONDS = 60
"""How long a command may take."""


@dataclasses.dataclass
class Block:
    """A fenced block."""

    line: int
    language: str
    title: str | None
    skipped: bool
    text: str
    span: tuple[int, int]
    """Where its text is in the page."""
    indent: str


class PageError(AssertionError):
    """A block did not do what the page says; the message begins with page and line."""


def blocks(source: str) -> Iterator[Block]:
    """The fenced blocks of a page, from the top."""
    for found in _FENCE.finditer(source):
        title = _TITLE.search(found["options"] or "")
        yield Block(
            line=source.count("\n", 0, found.start()) + 1,
            language=found["language"],
            title=title and title[1],
            skipped=_NOT_RUN.search(source, 0, found.start()) is not None,
            text=re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
            span=found.span("text"),
            indent=found["indent"],
        )


class Run:
    """One run of a page."""

    def __init__(self, page: Path, root: Path, folder: Path) -> None:
        self._page = page
        self._root = root
        self._folder = folder
        self._source = page.read_text("utf-8")
        self._names: dict[str, object] = {"__name__": "__main__"}
        self._printed: str | None = None
        self._blessed: list[tuple[tuple[int, int], str]] = []

    def all(self) -> int:
        """Run every block; how many there were. Raises `PageError`."""
        number = 0
        before = Path.cwd()
        os.chdir(self._folder)
        try:
            for block in blocks(self._source):
                if not block.skipped:
                    self._block(block)
                    number += 1
        finally:
            os.chdir(before)
        if self._blessed:
            self._bless()
        return number

    def _block(self, block: Block) -> None:
        before, self._printed = self._printed, None
        if block.title is not None:
            path = self._folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._whole(block), "utf-8")
        elif block.language == "python":
            self._printed = self._python(block)
        elif block.language == "text" and before is not None:
            self._see(block, self._compared(block, block.text, before))
        elif block.language == "console":
            self._console(block)
        elif block.language != "":
            raise self._failed(
                block,
                f"a block of {block.language} that is neither run nor a file: give it a title, or "
                "say above it `<!-- not run: reason -->`",
            )

    def _whole(self, block: Block) -> str:
        """The text of a block, or of the file that it shows."""
        found = _SNIPPET.match(block.text)
        return (self._root / found[1]).read_text("utf-8") if found else block.text

    def _python(self, block: Block) -> str:
        printed = io.StringIO()
        # The same lines as in the page, for tracebacks.
        source = "\n" * block.line + self._whole(block)
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(source, str(self._page), "exec"), self._names)
        except Exception:
            raise self._failed(block, traceback.format_exc()) from None
        return printed.getvalue()

    def _console(self, block: Block) -> None:
        if not block.text.startswith("$ "):
            raise self._failed(block, "a console block begins with a command after `$`")
        whole = ""
        for command, shown in commands(block.text):
            printed = self._command(block, shlex.split(command.replace("\\\n", " ")))
            whole += f"$ {command}\n{self._compared(block, shown, printed)}"
        self._see(block, whole)

    def _command(self, block: Block, words: list[str]) -> str:
        """What a command prints."""
        if words[0] == "portmaster-kext":
            words[:1] = [sys.executable, "-m", "portmaster_kext"]
        elif words[0] == "python":
            words[0] = sys.executable
        else:
            raise self._failed(block, f"{words[0]}: only python and portmaster-kext are run")
        done = subprocess.run(
            words,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env={**os.environ, "COLUMNS": "80", "PYTHONUTF8": "1"},
            timeout=SECONDS,
            check=False,
        )
        return done.stdout

    def _compared(self, block: Block, shown: str, printed: str) -> str:
        """What the page is to show: what it does, if that fits. Raises `PageError` if not."""
        pattern = ".*?".join(re.escape(part) for part in plain(shown).split("…"))
        if re.fullmatch(pattern, plain(printed), re.DOTALL):
            return shown
        if os.environ.get("BLESS_PAGES") != "1":
            raise self._failed(block, f"the page shows\n{shown}\nand what came is\n{printed}")
        return printed

    def _see(self, block: Block, text: str) -> None:
        """Remember a text that has to change."""
        if text != block.text:
            self._blessed.append((block.span, textwrap.indent(text, block.indent)))

    def _bless(self) -> None:
        text = self._source
        for (start, end), seen in reversed(self._blessed):
            text = text[:start] + seen + text[end:]
        self._page.write_text(text, "utf-8")

    def _failed(self, block: Block, what: str) -> PageError:
        return PageError(f"{self._page.relative_to(self._root)}:{block.line}: {what}")


def commands(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, and what each is shown to print.

    A backslash at the end of a line goes on in the next one.
    """
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        found = _COMMAND.match(part)
        assert found is not None
        yield found[0], part[found.end() + 1 :]


def plain(text: str) -> str:
    """Text without spaces at the ends of lines and empty lines around it."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
