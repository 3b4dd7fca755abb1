"""MkDocs hooks: what is done to the text of a page before MkDocs reads it.

Names become links, links out of docs/ lead to the repository, and the reference of the command line
is written from its own parser.
"""

from __future__ import annotations

import functools
import logging
import re
from pathlib import Path

import command_line
import names
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from portmaster_kext.cli.main import _parser

_log = logging.getLogger("mkdocs.plugins.portmaster-kext")

_INSIDE = {"architecture.md", "packet-path.md", "wire-format.md", "testing.md", "dependencies.md"}
"""Pages about Rust, where names are those of Rust."""

_COMMAND_LINE = "<!-- the command line, from its parser -->"

_OUTSIDE = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


@functools.cache
def _public() -> names.Names:
    return names.Names(names.load())


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page's text as MkDocs is to read it."""
    del files
    source = page.file.src_uri
    if _COMMAND_LINE in markdown:
        markdown = markdown.replace(_COMMAND_LINE, command_line.reference(_parser()))
    if source not in _INSIDE:
        markdown = _public().linked(
            markdown,
            lambda name: _log.warning(f"{source}: names `{name}`, which is not public"),
        )
    return _to_repository(markdown, source, config)


def _to_repository(markdown: str, source: str, config: MkDocsConfig) -> str:
    """Links to files that are no pages, as links to the repository."""
    docs = Path(config.docs_dir)
    root = docs.parent

    def link(found: re.Match[str]) -> str:
        target = (docs / source).parent.joinpath(found[1]).resolve()
        if target.is_relative_to(docs):
            return found[0]
        if not target.exists():
            _log.warning(f"{source}: links to {found[1]}, which is not there")
        kind = "tree" if target.is_dir() else "blob"
        path = target.relative_to(root).as_posix()
        return f"]({config.repo_url}/{kind}/main/{path}{found[2] or ''})"

    return _OUTSIDE.sub(link, markdown)
