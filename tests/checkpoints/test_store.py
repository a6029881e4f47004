import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from birdbone.checkpoints import (
    BitsAndBytes,
    Checkpoint,
    GgmlBlocks,
    InMemory,
    ObjectStore,
    Quantized,
    diff,
    open_folder,
    write_folder,
)
from birdbone.checkpoints.safetensors_layout import StoredTensor
from birdbone.checkpoints.tensors import DTYPES
from birdbone.errors import CheckpointError


def _files(folder: Path) -> dict[str, int]:
    """Path to time of the last change, for every file."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def _same(one: Tensor, other: Tensor) -> bool:
    raw_one, raw_other = (t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(raw_one, raw_other)


def test_every_kind_comes_back_as_it_was(tmp_path: Path, every_kind: Checkpoint) -> None:
    store = ObjectStore(tmp_path)
    found = store.load(store.save(every_kind))
    assert found.id == every_kind.id
    assert (found.source, found.parent) == (every_kind.source, every_kind.parent)
    assert (found.config, found.files) == (every_kind.config, every_kind.files)
    for name, ref in every_kind.refs.items():
        assert _same(found.tensors[name], ref.load())
        assert found.refs[name].num_bytes == ref.num_bytes
    shifted, nf4 = found.refs["shifted"], found.refs["nf4"]
    assert isinstance(shifted, Quantized)
    assert (shifted.bits, shifted.group_size, shifted.symmetric) == (8, 4, False)
    assert isinstance(nf4, BitsAndBytes)
    assert nf4.kind == "nf4"
    turned = found.refs["turned"]
    assert isinstance(turned, GgmlBlocks)
    assert (turned.kind, turned.transposed, turned.shape) == ("q8_0", True, (32, 1))
    assert _same(nf4.source.load(), every_kind.tensors["plain"])


def test_a_weight_quantised_by_bitsandbytes_may_have_any_source(tmp_path: Path) -> None:
    grid = Quantized(torch.ones(2, 4, dtype=torch.int8), torch.ones(2, 1), bits=4)
    shared = torch.ones(2, 4)
    made = Checkpoint(
        {},
        {
            "grid": BitsAndBytes(grid, torch.zeros(2, 4), kind="nf4"),
            "shared": BitsAndBytes(InMemory(shared), shared, kind="llm.int8"),
        },
    )
    store = ObjectStore(tmp_path)
    assert store.load(store.save(made)).id == made.id


def test_a_folder_a_store_and_memory_give_one_id(tmp_path: Path, small: Checkpoint) -> None:
    outline = {name: StoredTensor.of(ref) for name, ref in small.refs.items()}
    write_folder(tmp_path, small.tensors, outline, max_bytes=100)
    opened = Checkpoint(small.config, open_folder(tmp_path), small.files)
    store = ObjectStore(tmp_path / "store")
    kept = store.load(store.save(opened))
    in_memory = {name: InMemory(tensor) for name, tensor in opened.tensors.items()}
    assert kept.id == opened.id == Checkpoint(small.config, in_memory, small.files).id


def test_a_second_save_writes_only_what_changed(tmp_path: Path, every_kind: Checkpoint) -> None:
    store = ObjectStore(tmp_path)
    store.save(every_kind)
    before = _files(tmp_path)
    thinner = every_kind.evolve({"plain": torch.zeros(4, 8)})
    store.save(thinner)
    after = _files(tmp_path)
    assert {path: after[path] for path in before} == before
    key = thinner.refs["plain"].digest
    new = {f"objects/{key[:2]}/{key}.safetensors", f"manifests/{thinner.id}.json"}
    assert after.keys() - before.keys() == new


def test_equal_tensors_are_one_object(tmp_path: Path) -> None:
    made = Checkpoint({}, {name: InMemory(torch.ones(3)) for name in "abc"})
    ObjectStore(tmp_path).save(made)
    assert len(list((tmp_path / "objects").rglob("*.safetensors"))) == 1


def test_plain_tensors_stay_on_disk_until_asked_for(tmp_path: Path, small: Checkpoint) -> None:
    store = ObjectStore(tmp_path)
    found = store.load(store.save(small))
    key = small.refs["a"].digest
    (tmp_path / "objects" / key[:2] / f"{key}.safetensors").unlink()
    assert found.num_bytes == small.num_bytes
    assert torch.equal(found.tensors["b"], small.tensors["b"])
    with pytest.raises(CheckpointError, match=f"the store lacks .*{key}.*compute it again"):
        found.tensors["a"]


def test_a_missing_object_is_written_by_the_next_save(tmp_path: Path, small: Checkpoint) -> None:
    store = ObjectStore(tmp_path)
    store.save(small)
    for path in (tmp_path / "objects").rglob("*.safetensors"):
        path.unlink()
    found = store.load(store.save(small))
    assert all(_same(found.tensors[name], small.tensors[name]) for name in small.refs)


def test_what_a_store_gave_can_be_evolved_and_kept_again(tmp_path: Path, small: Checkpoint) -> None:
    first, second = ObjectStore(tmp_path / "one"), ObjectStore(tmp_path / "two")
    found = first.load(first.save(small))
    changed = found.evolve({"b": torch.zeros(2, 1)})
    assert diff(found, changed).changed == ("b",)
    assert second.load(second.save(changed)).id == changed.id
    assert second.load(changed.id).parent == small.id


def test_a_strided_slice_is_kept_alone(tmp_path: Path) -> None:
    experts = torch.arange(4096.0).reshape(4, 32, 32)
    made = Checkpoint({}, {"one": InMemory(experts[1]), "turned": InMemory(experts[2].t())})
    store = ObjectStore(tmp_path)
    found = store.load(store.save(made))
    assert torch.equal(found.tensors["one"], experts[1])
    assert torch.equal(found.tensors["turned"], experts[2].t())
    sizes = [path.stat().st_size for path in (tmp_path / "objects").rglob("*.safetensors")]
    assert max(sizes) < 2 * 32 * 32 * 4


def test_ids_lists_what_is_kept(tmp_path: Path, small: Checkpoint) -> None:
    store = ObjectStore(tmp_path / "absent")
    assert store.ids() == []
    kept = [store.save(small), store.save(small.evolve({"a": None}))]
    store.save(small)
    assert store.ids() == sorted(kept)


def test_a_dtype_that_could_not_be_read_back_writes_nothing(tmp_path: Path) -> None:
    made = Checkpoint({}, {"a": InMemory(torch.ones(1)), "b": InMemory(torch.ones(1) + 0j)})
    with pytest.raises(CheckpointError, match=r"tensor 'b' has dtype torch\.complex64"):
        ObjectStore(tmp_path).save(made)
    assert _files(tmp_path) == {}


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A small tensor of any dtype and shape, of any bits the dtype allows."""
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = torch.Size(shape).numel()
    if dtype == torch.bool:
        values = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        return torch.tensor(values, dtype=dtype).reshape(shape)
    size = count * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    flat = torch.frombuffer(raw, dtype=dtype) if size else torch.empty(0, dtype=dtype)
    return flat.reshape(shape)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(st.text(max_size=8), tensors(), max_size=4),
    files=st.dictionaries(st.from_regex(r"[a-z]{1,5}\.json", fullmatch=True), st.binary()),
    config=st.dictionaries(
        st.text(max_size=4), st.integers() | st.text() | st.floats() | st.none()
    ),
)
def test_round_trip_of_anything(
    tmp_path: Path, values: dict[str, Tensor], files: dict[str, bytes], config: dict[str, object]
) -> None:
    made = Checkpoint(config, {name: InMemory(value) for name, value in values.items()}, files)
    store = ObjectStore(tmp_path)
    found = store.load(store.save(made))
    assert found.id == made.id
    assert found.refs.keys() == values.keys()
    assert all(_same(found.tensors[name], value) for name, value in values.items())
    assert found.files == files


def test_tensors_and_config_come_back_in_their_order(tmp_path: Path) -> None:
    refs = {name: InMemory(torch.ones(1)) for name in ("b", "a", "c")}
    kept = Checkpoint({"z": 1, "a": {"y": 1, "b": 2}}, refs, {"t": b"", "a": b""})
    found = ObjectStore(tmp_path).load(ObjectStore(tmp_path).save(kept))
    assert list(found.refs) == ["b", "a", "c"]
    assert json.dumps(dict(found.config)) == json.dumps(dict(kept.config))
    assert list(found.files) == ["t", "a"]


@pytest.mark.parametrize("zeros", [False, True])
def test_codes_are_described_without_being_read(tmp_path: Path, zeros: bool) -> None:
    points = torch.ones(2, 3, dtype=torch.int8) if zeros else None
    made = Quantized(
        torch.arange(24).reshape(2, 12).to(torch.int8),
        torch.rand(2, 3).bfloat16(),
        bits=6,
        zero_points=points,
    )
    store = ObjectStore(tmp_path)
    found = store.ref(store.keep(made))
    assert isinstance(found, Quantized)
    (path,) = (tmp_path / "objects").glob("*/*")
    data = path.read_bytes()
    path.write_bytes(data[:-8] + bytes(8))  # values, not the header
    for name in ("bits", "shape", "dtype", "group_size", "symmetric", "num_bytes", "storage_kind"):
        assert getattr(found, name) == getattr(made, name), name
    assert found.digest == made.digest
    with pytest.raises(CheckpointError, match="does not match its name"):
        found.load()
    path.write_bytes(data)
    assert found.load().equal(made.load())


def test_blocks_are_described_without_being_read(tmp_path: Path) -> None:
    blocks = torch.arange(4 * 36, dtype=torch.uint8).reshape(4, 36)
    made = GgmlBlocks(blocks, kind="q4_0", transposed=True)
    store = ObjectStore(tmp_path)
    found = store.ref(store.keep(made))
    assert isinstance(found, GgmlBlocks)
    (path,) = (tmp_path / "objects").glob("*/*")
    data = path.read_bytes()
    path.write_bytes(data[:-10] + bytes(10))
    for name in ("kind", "transposed", "shape", "dtype", "num_bytes"):
        assert getattr(found, name) == getattr(made, name), name
    with pytest.raises(CheckpointError, match="does not match its name"):
        found.parts()
    path.unlink()
    with pytest.raises(CheckpointError, match="compute it again"):
        found.parts()


def test_an_entry_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a tensor entry"):
        ObjectStore(tmp_path).ref({})
