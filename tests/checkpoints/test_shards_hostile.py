"""Whatever bytes a folder holds, only CheckpointError comes out, and nothing outside is read."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from birdbone.checkpoints import open_folder
from birdbone.checkpoints.shards import INDEX, SINGLE
from birdbone.errors import CheckpointError

SOUND = save({"first": torch.arange(4.0), "second": torch.ones(2, 2, dtype=torch.int8)})
# The folder is overwritten by every example, so sharing it between them is sound.
hostile = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
numbers = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, 2, 8, 16, 2**63])
junk = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
dtypes = st.sampled_from(["F32", "F64", "BF16", "I8", "U16", "F4", "F6_E2M3", "C64", "f32", ""])


def _read_everything(folder: Path) -> None:
    for ref in open_folder(folder).values():
        assert tuple(ref.load().shape) == ref.shape


def _survives(folder: Path) -> None:
    """Any other error fails the test that calls this."""
    with suppress(CheckpointError):
        _read_everything(folder)


def _framed(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@hostile
@given(st.binary(max_size=200))
def test_any_bytes_as_weights(tmp_path: Path, data: bytes) -> None:
    (tmp_path / SINGLE).write_bytes(data)
    _survives(tmp_path)


@hostile
@given(
    header=junk
    | st.dictionaries(
        st.text(max_size=5) | st.just("__metadata__"),
        junk
        | st.fixed_dictionaries(
            {
                "dtype": dtypes | junk,
                "shape": st.lists(numbers, max_size=3) | junk,
                "data_offsets": st.lists(numbers, min_size=2, max_size=2) | junk,
            }
        ),
        max_size=3,
    ),
    data=st.binary(max_size=64),
)
def test_any_json_as_header(tmp_path: Path, header: object, data: bytes) -> None:
    (tmp_path / SINGLE).write_bytes(_framed(header, data))
    _survives(tmp_path)


@hostile
@given(place=st.integers(0, len(SOUND) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit(tmp_path: Path, place: int, bit: int) -> None:
    data = bytearray(SOUND)
    data[place] ^= 1 << bit
    (tmp_path / SINGLE).write_bytes(bytes(data))
    _survives(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 60, len(SOUND) - 1])
def test_a_truncated_file_is_damaged(tmp_path: Path, length: int) -> None:
    (tmp_path / SINGLE).write_bytes(SOUND[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged .*fetch it again"):
        open_folder(tmp_path)


def test_a_file_cut_after_it_was_opened_is_refused_on_load(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(SOUND)
    ref = open_folder(tmp_path)["first"]
    (tmp_path / SINGLE).write_bytes(SOUND[:-1])
    with pytest.raises(CheckpointError, match=r"'first' cannot be read from model\.safetensors"):
        ref.load()


def test_a_header_longer_than_the_file_is_damaged(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes((2**63 - 1).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="is damaged"):
        open_folder(tmp_path)


@pytest.mark.parametrize("dtype", ["F4", "C64"])
def test_an_unknown_dtype_is_named(tmp_path: Path, dtype: str) -> None:
    entry = {
        "dtype": dtype,
        "shape": [2],
        "data_offsets": [0, {"F4": 1, "C64": 16}[dtype]],
    }
    (tmp_path / SINGLE).write_bytes(_framed({"odd": entry}, bytes(entry["data_offsets"][1])))
    with pytest.raises(CheckpointError, match=f"tensor 'odd' in {SINGLE} has dtype {dtype}"):
        open_folder(tmp_path)


def test_weights_without_tensors_are_refused(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(_framed({}, b""))
    with pytest.raises(CheckpointError, match="hold no tensors"):
        open_folder(tmp_path)


def test_a_folder_posing_as_a_shard_is_damage(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").mkdir()
    _index(tmp_path, {"a": "x.safetensors"})
    with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged"):
        open_folder(tmp_path)


@hostile
@given(st.binary(max_size=100))
def test_any_bytes_as_index(tmp_path: Path, data: bytes) -> None:
    (tmp_path / INDEX).write_bytes(data)
    with pytest.raises(CheckpointError, match="index"):
        open_folder(tmp_path)


@hostile
@given(st.dictionaries(st.just("weight_map") | st.text(max_size=5), junk, max_size=2))
def test_any_json_as_index(tmp_path: Path, index: object) -> None:
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index|missing|hold no tensors|outside"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"weight_map": 1}', '{"weight_map": {"a": 1}}', ""]
)
def test_an_index_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=r"is not a shard index .*fetch it again"):
        open_folder(tmp_path)


def test_an_index_that_lists_nothing_is_refused(tmp_path: Path) -> None:
    _index(tmp_path, {})
    with pytest.raises(CheckpointError, match="hold no tensors"):
        open_folder(tmp_path)


@pytest.mark.parametrize("place", ["../secret.safetensors", "sub/../../secret.safetensors", "/"])
def test_an_index_cannot_lead_outside(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "secret.safetensors")
    shard = str(tmp_path / "secret.safetensors") if place == "/" else place
    _index(folder, {"a": shard})
    with pytest.raises(CheckpointError, match="lies outside the folder; refused"):
        open_folder(folder)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/"])
def test_an_index_cannot_name_a_folder(tmp_path: Path, name: str) -> None:
    _index(tmp_path, {"a": name})
    with pytest.raises(CheckpointError, match="lies outside the folder; refused"):
        open_folder(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800"])
def test_an_unusable_name_is_a_missing_shard(tmp_path: Path, name: str) -> None:
    _index(tmp_path, {"a": name})
    with pytest.raises(CheckpointError, match="is missing from"):
        open_folder(tmp_path)


def _index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
