import json
import pickle
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from birdbone.checkpoints import open_folder, write_folder
from birdbone.checkpoints.safetensors_layout import StoredTensor
from birdbone.checkpoints.shards import INDEX, SINGLE, plan_shards, shard_paths
from birdbone.checkpoints.tensors import DTYPES
from birdbone.errors import CheckpointError

TENSORS = {name: torch.full((4,), float(place)) for place, name in enumerate("abcde")}


def _write(folder: Path, tensors: dict[str, Tensor], max_bytes: int = 1000) -> list[Path]:
    outline = {name: StoredTensor.of(tensor) for name, tensor in tensors.items()}
    return write_folder(folder, tensors, outline, max_bytes=max_bytes)


def _read(folder: Path) -> dict[str, Tensor]:
    return {name: ref.load() for name, ref in open_folder(folder).items()}


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        for name, tensor in expected.items()
    )


def test_what_fits_is_one_file_without_index(tmp_path: Path) -> None:
    assert _write(tmp_path, TENSORS) == [tmp_path / SINGLE]
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    assert _same(_read(tmp_path), TENSORS)
    with safe_open(tmp_path / SINGLE, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_does_not_fit_is_shards_with_an_index(tmp_path: Path) -> None:
    paths = _write(tmp_path, TENSORS, max_bytes=32)
    assert [path.name for path in paths] == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
    ]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 80
    held = {name: path.name for path in paths for name in load_file(path)}
    assert index["weight_map"] == held
    assert shard_paths(tmp_path) == paths
    assert _same(_read(tmp_path), TENSORS)


def test_every_dtype_comes_back(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.tensor([0.0, 1.0]).to(dtype) for dtype in DTYPES.values()}
    _write(tmp_path, tensors)
    refs = open_folder(tmp_path)
    assert {name: str(ref.dtype) for name, ref in refs.items()} == {name: name for name in tensors}
    assert _same({name: ref.load() for name, ref in refs.items()}, tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_no_negative_zero_is_written(tmp_path: Path, dtype: torch.dtype) -> None:
    given_tensor = torch.tensor([-0.0, 0.0, -1.0]).to(dtype)
    _write(tmp_path, {"a": given_tensor})
    assert torch.signbit(_read(tmp_path)["a"]).tolist() == [False, False, True]
    assert torch.signbit(given_tensor).tolist() == [True, False, True]


def test_tensors_that_share_memory_or_are_strided_are_written_whole(tmp_path: Path) -> None:
    codes = torch.arange(6, dtype=torch.int8).reshape(2, 3)
    tensors = {"codes": codes, "same": codes, "turned": codes.t(), "row": codes[1]}
    _write(tmp_path, tensors)
    assert _same(_read(tmp_path), tensors)


def test_a_dtype_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tensor 'a' has dtype torch\.complex64.*convert"):
        _write(tmp_path, {"a": torch.ones(1, dtype=torch.complex64)})


def test_nothing_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="without tensors cannot be saved"):
        _write(tmp_path, {})


@pytest.mark.parametrize("names", ["a", "abcdef"])
def test_outline_and_tensors_name_the_same(tmp_path: Path, names: str) -> None:
    outline = {name: StoredTensor(torch.float32, (4,)) for name in names}
    with pytest.raises(CheckpointError, match=r"tensor '[bf]' has no outline or no values"):
        write_folder(tmp_path, TENSORS, outline, max_bytes=100)


class Watched(Mapping[str, Tensor]):
    """Makes a tensor when it is read, once those read before are gone."""

    def __init__(self, names: str) -> None:
        self.names, self.read, self._last = names, "", lambda: None

    def __getitem__(self, name: str) -> Tensor:
        assert self._last() is None
        self.read += name
        made = torch.full((4,), float(ord(name)))
        self._last = weakref.ref(made)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@pytest.mark.parametrize("max_bytes", [32, 1000])
def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path, max_bytes: int) -> None:
    tensors = Watched("cabed")
    outline = {name: StoredTensor(torch.float32, (4,)) for name in tensors}
    write_folder(tmp_path, tensors, outline, max_bytes=max_bytes)
    assert tensors.read == "cabed"
    expected = {name: torch.full((4,), float(ord(name))) for name in "abcde"}
    assert _same(_read(tmp_path), expected)


@given(
    sizes=st.dictionaries(st.text(max_size=3), st.integers(0, 50), max_size=12),
    limit=st.integers(0, 60),
)
def test_a_plan_keeps_order_and_limit_and_wastes_no_shard(
    sizes: dict[str, int], limit: int
) -> None:
    shards = plan_shards(sizes, limit)
    assert [name for shard in shards for name in shard] == list(sizes)
    totals = [sum(sizes[name] for name in shard) for shard in shards]
    for total, shard in zip(totals, shards, strict=True):
        assert shard
        assert total <= limit or len(shard) == 1
    for place in range(len(shards) - 1):
        assert totals[place] + sizes[shards[place + 1][0]] > limit


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "x.pth", "x.ckpt", "x.pkl"])
def test_pickles_are_refused_unopened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match=f"pickled weights \\({name}\\).*refused; save"):
        open_folder(tmp_path)


def test_a_pickle_posing_as_safetensors_is_damage(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / SINGLE)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        open_folder(tmp_path)


@pytest.mark.parametrize("folder", [".", "absent"])
def test_a_folder_without_weights_says_what_was_expected(tmp_path: Path, folder: str) -> None:
    with pytest.raises(CheckpointError, match=f"no safetensors weights; expected {SINGLE}"):
        open_folder(tmp_path / folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    paths = _write(tmp_path, TENSORS, max_bytes=32)
    paths[1].unlink()
    with pytest.raises(CheckpointError, match=f"shard '{paths[1].name}' is missing"):
        open_folder(tmp_path)


def test_a_shard_that_lacks_a_listed_tensor_is_named(tmp_path: Path) -> None:
    paths = _write(tmp_path, TENSORS, max_bytes=32)
    save_file({"c": TENSORS["c"]}, paths[1])
    with pytest.raises(CheckpointError, match=f"lists tensor 'd' in {paths[1].name}, which does"):
        open_folder(tmp_path)


def test_of_two_copies_the_index_chooses(tmp_path: Path) -> None:
    paths = _write(tmp_path, TENSORS, max_bytes=32)
    save_file({"e": TENSORS["e"], "a": torch.zeros(1)}, paths[2])
    save_file({"a": torch.ones(1), "b": torch.ones(1), "extra": torch.ones(1)}, paths[0])
    found = _read(tmp_path)
    assert found["a"].tolist() == [1.0]
    assert "extra" in found
