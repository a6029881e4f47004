from pathlib import Path

from birdbone.commands.reference import reference, write_reference

DOCS = Path(__file__).parents[2] / "docs"


def test_the_committed_pages_are_what_the_code_says() -> None:
    for name, text in reference().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, "run: make docs"


def test_pages_are_written_where_told(tmp_path: Path) -> None:
    write_reference(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"links.md", "chains.md", "commands.md"}
    assert (tmp_path / "links.md").read_text(encoding="utf-8").count("\n## ") >= 9
