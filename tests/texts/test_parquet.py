"""Parquet files give their rows, of the text's column alone; without pyarrow the extra is named."""

import gzip
import sys
from pathlib import Path

import pytest

from birdbone.errors import DataError, MissingExtraError
from birdbone.texts.parquet import parquet_rows


def test_rows_hold_the_column_of_text_alone(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "id": [1, 2]}), path)
    assert list(parquet_rows(path, None)) == [
        (f"file '{path}', row 1", {"text": "a"}),
        (f"file '{path}', row 2", {"text": "b"}),
    ]
    assert [row for _, row in parquet_rows(path, "id")] == [{"id": 1}, {"id": 2}]
    packed = tmp_path / "a.parquet.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert len(list(parquet_rows(packed, None))) == 2
    with pytest.raises(DataError, match=r"a\.parquet' has no column 'body'; .*'id', 'text'"):
        list(parquet_rows(path, "body"))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=r"bad\.parquet' is no readable Parquet file"):
        list(parquet_rows(tmp_path / "bad.parquet", None))


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"birdbone\[parquet\]"):
        list(parquet_rows(tmp_path / "a.parquet", None))
