"""A GGUF model in several files is read as the one it was split from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from tiny_gguf import gguf_checkpoint, split_gguf

from birdbone.errors import BirdboneError, ModelError
from birdbone.formats.gguf_writer import write_gguf
from birdbone.models.codecs.gguf_parts import join_parts, parts_of
from birdbone.models.planning.outline import outlined_model
from birdbone.models.reading.opening import open_checkpoint, positions_of
from birdbone.models.reading.sources import find_model
from birdbone.models.reading.tokenizer import read_tokenizer
from birdbone.reports.inspection import inspect_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(gguf_checkpoint(), tmp_path_factory.mktemp("whole") / "m.gguf").path


@pytest.fixture(scope="module")
def parts(whole: Path) -> list[Path]:
    return split_gguf(whole, whole.parent / "parts")


def test_any_part_and_the_folder_are_the_whole_model(whole: Path, parts: list[Path]) -> None:
    wanted = open_checkpoint(find_model(str(whole)))
    for named in (parts[0], parts[1], parts[0].parent):
        source = find_model(str(named))
        assert source.gguf_paths == tuple(parts)
    found = open_checkpoint(find_model(str(parts[1])))
    assert found.source == "model-00001-of-00003.gguf"
    assert {**found.config, "_name_or_path": ""} == {**wanted.config, "_name_or_path": ""}
    assert found.refs.keys() == wanted.refs.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in wanted.tensors.items())
    assert found.files["tokenizer.json"] == wanted.files["tokenizer.json"]


def test_config_tokenizer_outline_and_inspection_need_no_weights(
    whole: Path, parts: list[Path]
) -> None:
    split, single = find_model(str(parts[2])), find_model(str(whole))
    assert positions_of(split) == positions_of(single)
    assert read_tokenizer(split).get_vocab() == read_tokenizer(single).get_vocab()
    outline = outlined_model(split, None)
    assert outline.num_parameters == outlined_model(single, None).num_parameters
    found, wanted = inspect_model(str(parts[1])), inspect_model(str(whole))
    assert (found.parameters, found.tied) == (wanted.parameters, wanted.tied)
    assert (found.stored_bytes, found.blocks) == (wanted.stored_bytes, wanted.blocks)
    assert found.weight_bytes == sum(path.stat().st_size for path in parts)


def test_a_first_part_without_tensors_is_one_too(whole: Path, tmp_path: Path) -> None:
    bare = split_gguf(whole, tmp_path, tensors_in_first=False)
    assert GGUFReader(bare[0]).tensors == []
    assert inspect_model(str(bare[0])).parameters == inspect_model(str(whole)).parameters
    join_parts(bare, tmp_path / "joined.gguf")
    wanted = {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(whole).tensors}
    joined = GGUFReader(tmp_path / "joined.gguf")
    assert {tensor.name: tensor.data.tobytes() for tensor in joined.tensors} == wanted
    assert not any(name.startswith("split.") for name in joined.fields)


def test_missing_parts_are_named(whole: Path, tmp_path: Path) -> None:
    left = split_gguf(whole, tmp_path)
    left[0].unlink()
    left[2].unlink()
    named = r"2 are missing .*\(model-00001-of-00003\.gguf, model-00003-of-00003\.gguf\); fetch"
    for name in (left[1], tmp_path):
        with pytest.raises(ModelError, match=named):
            find_model(str(name))


def test_a_renamed_part_is_refused_with_the_naming_scheme(whole: Path, tmp_path: Path) -> None:
    second = split_gguf(whole, tmp_path)[1].rename(tmp_path / "second.gguf")
    with pytest.raises(ModelError, match=r"second\.gguf is part 2 of 3.*name it NAME-00002-of-"):
        inspect_model(str(second))
    with pytest.raises(ModelError, match=r"second\.gguf is part 2 of 3"):
        open_checkpoint(find_model(str(second)))


def test_parts_of_different_models_are_refused(whole: Path, tmp_path: Path) -> None:
    three, two = split_gguf(whole, tmp_path / "3"), split_gguf(whole, tmp_path / "2", 2)
    three[1].write_bytes(two[1].read_bytes())
    with pytest.raises(BirdboneError, match=r"model-00002-of-00003\.gguf is part 2 of 2"):
        open_checkpoint(find_model(str(three[0])))
    three[1].write_bytes(three[0].read_bytes())
    with pytest.raises(BirdboneError, match=r"model-00002-of-00003\.gguf is part 1 of 3"):
        inspect_model(str(three[0]))


def test_a_damaged_part_is_refused(whole: Path, tmp_path: Path) -> None:
    damaged = split_gguf(whole, tmp_path)
    damaged[1].write_bytes(damaged[1].read_bytes()[:200])
    with pytest.raises(BirdboneError, match=r"cannot be opened.* within its head"):
        open_checkpoint(find_model(str(damaged[0])))
    with pytest.raises(BirdboneError, match=r"cannot be opened.* within its head"):
        inspect_model(str(damaged[0]))


def test_a_single_file_that_is_merely_called_a_part_is_a_model(whole: Path, tmp_path: Path) -> None:
    alone = tmp_path / "m-00002-of-00004.gguf"
    alone.write_bytes(whole.read_bytes())
    assert find_model(str(alone)).gguf_paths == (alone,)
    assert inspect_model(str(alone)).parameters == inspect_model(str(whole)).parameters


@pytest.mark.parametrize("name", ["m.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf"])
def test_other_names_are_no_parts(name: str) -> None:
    assert parts_of(name) == [name]
