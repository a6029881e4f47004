"""The documentation: its Python snippets run, its links resolve, the README stays short."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# Snippets of this page train models; tests/reports/test_card_snippets.py runs them.
ELSEWHERE = {"lora.md"}


def snippets(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


WITH_SNIPPETS = [page for page in PAGES if page.name not in ELSEWHERE and snippets(page)]


@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=lambda page: page.name)
def test_python_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "snippet"}
    for place, snippet in enumerate(snippets(page), 1):
        exec(compile(snippet, f"{page.name}, snippet {place}", "exec"), space)


def test_readme_chain_composes() -> None:
    first = snippets(ROOT / "README.md")[0]
    composed = first[: first.index("result =")]
    space: dict[str, Any] = {}
    exec(compile(composed, "README.md", "exec"), space)
    assert [each.__name__ for each in space["chain"].links][-1] == "save"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES}
    assert [name for name in sorted(named) if name not in navigation] == []
