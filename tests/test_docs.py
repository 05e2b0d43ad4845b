"""The documentation runs: each page's Python blocks, in order, in one namespace; links lead on.

A block marked `output` right after a `python` block is what that block prints.
"""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "kernels").glob("*.md")]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(text: str) -> list[tuple[int, str, str]]:
    """The fenced blocks of a page: first line, language, content."""
    return [(text[: m.start()].count("\n") + 2, m[1], m[2]) for m in BLOCK.finditer(text)]


def execute(page: Path) -> int:
    """Run a page; returns how many blocks were run. Errors carry the page's own line numbers."""
    namespace: dict[str, object] = {"__name__": "page"}
    printed, count = "", 0
    for line, language, content in blocks(page.read_text()):
        if language == "python":
            code = compile("\n" * (line - 1) + content, str(page), "exec")
            stream = io.StringIO()
            with contextlib.redirect_stdout(stream):
                exec(code, namespace)
            printed, count = stream.getvalue(), count + 1
        elif language == "output":
            assert printed.strip() == content.strip(), f"{page.name}:{line} prints something else"
    return count


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = sum(language == "python" for _, language, _ in blocks(page.read_text()))
    assert execute(page) == expected


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text()) if "://" not in t]
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_the_readme_example_runs() -> None:
    assert any(language == "python" for _, language, _ in blocks((ROOT / "README.md").read_text()))


def test_wrong_output_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n```output\n2\n```\n")
    with pytest.raises(AssertionError, match="prints something else"):
        execute(page)
