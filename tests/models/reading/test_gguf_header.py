"""Readers of GGUF files: their fields and tensors, of one file or of several, and damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader
from tiny_gguf import gguf_checkpoint, split_gguf

from birdbone.errors import ModelError
from birdbone.formats.gguf_writer import write_gguf
from birdbone.models.reading.gguf_header import read_header, read_headers, read_tensors
from birdbone.models.reading.sources import Source, find_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = gguf_checkpoint(num_hidden_layers=1)
    return write_gguf(made, tmp_path_factory.mktemp("header") / "tiny.gguf", kind="q8_0").path


@pytest.fixture(scope="module")
def parts(whole: Path) -> Source:
    return find_model(str(split_gguf(whole, whole.parent / "parts")[0]))


def test_one_file_has_its_fields_and_tensors(whole: Path) -> None:
    source, plain = find_model(str(whole)), GGUFReader(whole)
    found = read_header(source)
    assert found.fields.keys() == plain.fields.keys()
    assert found.fields["general.architecture"].contents() == "llama"
    assert [tensor.name for tensor in read_tensors(source)] == [t.name for t in plain.tensors]
    assert len(read_headers(source)) == 1


def test_tensors_of_all_files_are_those_of_the_whole(whole: Path, parts: Source) -> None:
    assert len(read_headers(parts)) == 3
    wanted = {tensor.name: tensor for tensor in GGUFReader(whole).tensors}
    found = {tensor.name: tensor for tensor in read_tensors(parts)}
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert int(tensor.n_bytes) == int(wanted[name].n_bytes)
        assert (tensor.data == wanted[name].data).all()


def test_the_fields_are_those_of_the_first_file(parts: Source) -> None:
    assert "llama.block_count" in read_header(parts).fields
    assert "llama.block_count" not in read_headers(parts)[1].fields


@pytest.mark.parametrize(
    ("kept", "words"), [(0, "empty"), (3, "it ends within its head"), (500, "it ends within")]
)
def test_a_file_cut_short_is_refused(kept: int, words: str, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole.read_bytes()[:kept])
    for read in (read_header, read_headers, read_tensors):
        with pytest.raises(ModelError, match=f"^'cut' cannot be opened as GGUF: .*{words}"):
            read(Source("cut", tmp_path, "cut.gguf"))


def test_more_layers_than_tensors_are_refused_before_anything_is_made(
    whole: Path, tmp_path: Path
) -> None:
    key, layers = b"llama.block_count\x04\0\0\0", (1 << 30).to_bytes(4, "little")
    data = whole.read_bytes()
    place = data.index(key) + len(key)
    (tmp_path / "deep.gguf").write_bytes(data[:place] + layers + data[place + 4 :])
    with pytest.raises(ModelError, match=r"llama\.block_count is 1073741824, of \d+ tensors"):
        read_header(Source("deep", tmp_path, "deep.gguf"))


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^'gone' cannot be opened as GGUF: .*No such file"):
        read_header(Source("gone", tmp_path, "gone.gguf"))
