"""The documentation does what it says: every block that can run is run, and its output compared."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pages
import portmaster_kext as pk
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_the_page_do_what_it_says(page, tmp_path):
    captures = tmp_path / "tests" / "captures"
    captures.mkdir(parents=True)
    for capture in (ROOT / "tests" / "captures").glob("*.pcap*"):
        shutil.copy(capture, captures)
    shutil.copytree(ROOT / "python" / "examples", tmp_path / "python" / "examples")
    pages.Run(page, ROOT, tmp_path).all()


def test_the_reference_has_every_public_name():
    named = set()
    for page in (DOCS / "reference").glob("*.md"):
        named |= set(re.findall(r"^::: portmaster_kext\.(\w+)$", page.read_text("utf-8"), re.M))
    assert named == set(pk.__all__) - {"__version__"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a page with this text."""
    monkeypatch.delenv("BLESS_PAGES", raising=False)

    def run(text: str) -> int:
        page = tmp_path / "page.md"
        page.write_text(text, "utf-8")
        folder = tmp_path / "folder"
        folder.mkdir()
        return pages.Run(page, tmp_path, folder).all()

    return run


def test_blocks_share_names_and_files(run):
    assert (
        run(
            '```toml title="a.toml"\nx = 1\n```\n\n'
            "```python\nfrom pathlib import Path\ntext = Path('a.toml').read_text()\n```\n"
            "```python\nprint(text)\n```\n```text\nx = …\n```\n"
            "<!-- not run: why -->\n```sh\nfalse\n```\n"
            "```console\n$ python -c 'print(1); print(2)'\n1\n2\n$ python -c 'print(3)'\n3\n```\n"
        )
        == 5
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("```python\nprint(1)\n```\n```text\n2\n```\n", r"page\.md:4: the page shows\s+2"),
        ("\n\n```python\n\n1 / 0\n```\n", r'page\.md", line 5, in <module>\s+1 / 0'),
        ("```text\n2\n```\n", "page.md:1: a block of text that is neither"),
        ("```python\nprint(1)\n```\n```sh\nls\n```\n", "page.md:4: a block of sh"),
        ("```console\n$ python -c 'print(1)'\n2\n```\n", r"shows\s+2\s+and what came is\s+1"),
        ("```console\n$ ls\n```\n", "only python"),
    ],
)
def test_a_page_that_is_wrong_is_told_by_line(run, text, what):
    with pytest.raises(pages.PageError, match=what):
        run(text)


def test_output_is_blessed_where_it_differs(run, tmp_path, monkeypatch):
    monkeypatch.setenv("BLESS_PAGES", "1")
    text = "  ```python\n  print(1)\n  ```\n  ```text\n  2\n  ```\n```python\n```\n"
    run(text + "```console\n$ python -c 'print(3)'\n$ python -c 'print(4)'\n```\n")
    assert (tmp_path / "page.md").read_text("utf-8") == (
        text.replace("  2\n", "  1\n")
        + "```console\n$ python -c 'print(3)'\n3\n$ python -c 'print(4)'\n4\n```\n"
    )
