"""Files, folders and globs: which files they mean, and what documents those hold."""

import gzip
import json
from pathlib import Path

import pytest

from birdbone.errors import DataError
from birdbone.texts.conversations import Conversation
from birdbone.texts.files import documents_in, find_files, kind_of

PARAGRAPH = "A bird's bone is hollow, and struts stand where the load is carried. " * 15


def write(folder: Path, **contents: str) -> None:
    """Files named by their keys, `__` standing for a folder and `_` for a dot."""
    for key, text in contents.items():
        path = folder / key.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def names(place: str, folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_files(place)]


def test_a_folder_means_its_texts_and_tables_sorted_without_hidden_ones(tmp_path: Path) -> None:
    write(tmp_path, b_txt="b", a_MD="a", deep__c_jsonl="{}", d_parquet="d", ignored_py="x")
    write(tmp_path, _git__config_txt="hidden", e_jsonl_gz="e", f_gz="x")
    found = names(str(tmp_path), tmp_path)
    assert found == ["a.MD", "b.txt", "d.parquet", "deep/c.jsonl", "e.jsonl.gz"]


def test_a_glob_means_what_matches_it_and_a_file_itself(tmp_path: Path) -> None:
    write(tmp_path, b_txt="b", a_txt="a", deep__c_txt="c", notes="n")
    assert names(f"{tmp_path}/*.txt", tmp_path) == ["a.txt", "b.txt"]
    assert names(f"{tmp_path}/**/*.txt", tmp_path) == ["a.txt", "b.txt", "deep/c.txt"]
    assert names(f"{tmp_path}/notes", tmp_path) == ["notes"]


def test_what_means_no_file_says_what_may_be_given(tmp_path: Path) -> None:
    write(tmp_path, code_py="x")
    with pytest.raises(DataError, match=r"holds no \.txt, \.md, \.jsonl, \.json, \.parquet file"):
        find_files(str(tmp_path))
    with pytest.raises(DataError, match=r"no file matches '.*\*\.txt'"):
        find_files(f"{tmp_path}/*.txt")
    with pytest.raises(DataError, match=r"'nowhere\.txt' is neither a file nor a folder"):
        find_files("nowhere.txt")
    with pytest.raises(DataError, match="text '' is neither"):
        find_files("")


@pytest.mark.parametrize(
    ("name", "kind"), [("a.TXT", ".txt"), ("a.jsonl.gz", ".jsonl"), ("a.gz", ""), ("a", "")]
)
def test_a_compressed_file_is_of_the_kind_before_its_last_ending(name: str, kind: str) -> None:
    assert kind_of(Path(name)) == kind


def test_texts_are_one_document_each_and_rows_too(tmp_path: Path) -> None:
    talk = json.dumps({"messages": [{"role": "user", "content": "Why?"}]})
    write(tmp_path, a_txt="one\r\ntwo", b_jsonl=f'{{"text": "three"}}\n{talk}\n', c_json='["four"]')
    found = documents_in(find_files(str(tmp_path)), None, None)
    first, second, third, fourth = found
    assert (first, second, fourth) == ("one\ntwo", "three", "four")
    assert isinstance(third, Conversation)
    assert third.where == f"file '{tmp_path}/b.jsonl', line 2"


def test_no_more_rows_are_read_than_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl='{"body": "one"}\n{"body": "two"}\nno json\n')
    paths = find_files(str(tmp_path / "a.jsonl"))
    assert documents_in(paths, "body", 2) == ("one", "two")
    with pytest.raises(DataError, match="line 3 is not JSON"):
        documents_in(paths, "body", None)


def test_a_lone_text_is_divided_and_a_lone_table_is_not(tmp_path: Path) -> None:
    write(tmp_path, a_txt="\n\n".join([PARAGRAPH] * 30), b_jsonl=json.dumps({"text": PARAGRAPH}))
    assert documents_in([tmp_path / "a.txt"], None, None) == (f"{PARAGRAPH}\n\n{PARAGRAPH}",) * 15
    assert documents_in([tmp_path / "b.jsonl"], None, None) == (PARAGRAPH,)


def test_a_blank_file_among_others_is_named(tmp_path: Path) -> None:
    write(tmp_path, a_txt=PARAGRAPH, empty_txt="\n")
    with pytest.warns(UserWarning, match=r"empty\.txt' is blank"):
        assert documents_in(find_files(str(tmp_path)), None, None) == (PARAGRAPH,)


def test_a_compressed_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.md.gz").write_bytes(gzip.compress(b"hollow bones"))
    assert documents_in([tmp_path / "a.md.gz"], None, None) == ("hollow bones",)
