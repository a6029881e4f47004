"""The texts every installation carries, in an order that does not depend on the file system."""

import sysconfig
from pathlib import Path

import pytest

from birdbone.errors import DataError
from birdbone.texts.builtin import BUILTIN, read_pydoc, read_readmes, read_stdlib, unused_builtin
from birdbone.texts.split import shared_documents


def test_the_library_is_read_without_tests_and_without_what_pydoc_holds() -> None:
    corpus = read_stdlib()
    assert corpus.name.startswith("stdlib (CPython 3.")
    first = (Path(sysconfig.get_paths()["stdlib"]) / "__future__.py").read_text(encoding="utf-8")
    assert first == corpus.documents[0]
    assert len(corpus.documents) > 300
    assert not any("unittest.main()" in text[-40:] for text in corpus.documents)
    topics = read_pydoc().documents
    assert shared_documents(corpus.documents, topics) == ()


def test_modules_come_sorted_and_tests_tables_and_machine_settings_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["b.py", "a.py", "pkg/z.py", "pkg/tests/t.py", "test/t.py", "site-packages/s.py"]
    for name in [*names, "encodings/e.py", "_sysconfigdata_x.py", "config-3.11/c.py", "a.txt"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}")
    (tmp_path / "pkg" / "__init__.py").write_text("")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert read_stdlib().documents == ("# a.py", "# b.py", "# pkg/z.py")


def test_a_python_without_its_source_says_what_else_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DataError, match=r"no source of its standard library.*give 'pydoc'"):
        read_stdlib()


def test_the_descriptions_of_required_packages_are_text() -> None:
    corpus = read_readmes()
    assert len(corpus.documents) > 10
    assert any("Accelerate" in text for text in corpus.documents)


def test_the_first_built_in_text_that_is_not_used_is_chosen() -> None:
    assert unused_builtin([]) == "stdlib"
    assert unused_builtin(["stdlib", "own.txt"]) == "pydoc"
    assert unused_builtin(["stdlib", "pydoc"]) == "readmes"
    with pytest.raises(DataError, match=r"every built-in text.*name one with elsewhere="):
        unused_builtin(BUILTIN)
