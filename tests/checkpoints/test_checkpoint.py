import dataclasses
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from birdbone.checkpoints import Checkpoint, InMemory, TensorRef, open_folder, write_folder
from birdbone.checkpoints.safetensors_layout import StoredTensor
from birdbone.errors import CheckpointError


class Counting(TensorRef):
    """A reference that counts how often it is loaded."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.loads = tensor, 0
        self.dtype, self.shape = tensor.dtype, tuple(tensor.shape)

    def load(self) -> Tensor:
        self.loads += 1
        return self.tensor


@pytest.mark.parametrize("part", ["config", "refs", "files", "tensors"])
def test_mappings_are_read_only(small: Checkpoint, part: str) -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        getattr(small, part)["new"] = None


def test_fields_cannot_be_set(small: Checkpoint) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small.source = "other"  # type: ignore[misc]


def test_later_changes_to_what_was_given_do_not_reach_it() -> None:
    config = {"rope": {"factor": 1}}
    refs: dict[str, TensorRef] = {"a": InMemory(torch.ones(1))}
    files = {"f": b"1"}
    made = Checkpoint(config, refs, files)
    config["rope"]["factor"] = 2
    refs.clear()
    files.clear()
    assert made.config["rope"]["factor"] == 1
    assert set(made.refs) == {"a"}
    assert set(made.files) == {"f"}


def test_evolve_shares_what_it_does_not_replace(small: Checkpoint) -> None:
    before = small.id
    new = small.evolve({"b": torch.zeros(2, 1)}, config={"layers": 1})
    assert new.refs["a"] is small.refs["a"]
    assert new.parent == before
    assert new.id != before
    assert new.config == {"model_type": "tiny", "layers": 1}
    assert (new.source, new.files) == (small.source, small.files)
    assert small.config["layers"] == 2
    assert torch.equal(small.tensors["b"], torch.ones(2, 1))


def test_evolve_keeps_a_reference_and_removes_on_none(small: Checkpoint) -> None:
    ref = InMemory(torch.zeros(3))
    new = small.evolve({"a": ref, "b": None})
    assert new.refs["a"] is ref
    assert "b" not in new.refs
    assert "b" in small.refs


def test_evolve_refuses_an_unknown_name() -> None:
    made = Checkpoint({}, {"lm_head.weight": InMemory(torch.ones(1))})
    with pytest.raises(CheckpointError, match=r"'lm_head.weigth'.*did you mean 'lm_head.weight'\?"):
        made.evolve({"lm_head.weigth": torch.ones(1)})


def test_id_is_content_not_order_place_or_history(small: Checkpoint, tmp_path) -> None:
    write_folder(tmp_path, dict(small.tensors), _outline(small), max_bytes=8)
    plus_zero = {"a": torch.tensor([1.0, 0.0, 0.0, 3.0]), "b": torch.ones(2, 1)}
    in_memory = Checkpoint(
        dict(reversed(small.config.items())),
        {name: InMemory(plus_zero[name]) for name in ("b", "a")},
        small.files,
        parent="f" * 64,
    )
    on_disk = Checkpoint(small.config, open_folder(tmp_path), small.files)
    assert on_disk.id == in_memory.id


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"model_type": "tiny", "layers": 3}},
        {"files": {"tokenizer.json": b"[]"}},
        {"files": {"tokenizer2.json": b"{}"}},
        {"refs": {"a": InMemory(torch.ones(4))}},
        {"refs": {"a": InMemory(torch.ones(4)), "c": InMemory(torch.ones(2, 1))}},
    ],
)
def test_any_changed_content_changes_the_id(small: Checkpoint, change) -> None:
    assert dataclasses.replace(small, **change).id != small.id


def test_names_that_imitate_the_hashed_text_do_not_collide() -> None:
    one, two = InMemory(torch.ones(1)), InMemory(torch.zeros(1))
    honest = Checkpoint({}, {"a": one, "b": two})
    posing = Checkpoint({}, {f"a:{one.digest}b": two})
    assert honest.id != posing.id


def test_dtype_and_shape_are_content() -> None:
    zeros = (torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32))
    assert len({Checkpoint({}, {"a": InMemory(zero)}).id for zero in zeros}) == 3


def test_config_is_kept_as_config_json_reads_back() -> None:
    made = Checkpoint({"id2label": {10: "x", 2: "y"}, "betas": (0.9, 0.99)}, {})
    assert made.config == {"id2label": {"10": "x", "2": "y"}, "betas": [0.9, 0.99]}


def test_config_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(CheckpointError, match=r"config key 'dtype' holds torch\.float16"):
        Checkpoint({"dtype": torch.float16}, {})


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", "", "."])
def test_file_names_stay_in_the_folder(name: str) -> None:
    with pytest.raises(CheckpointError, match="points outside the folder"):
        Checkpoint({}, {}, {name: b""})


def test_tensors_load_on_access_only_and_are_not_kept() -> None:
    ref = Counting(torch.ones(3))
    made = Checkpoint({}, {"a": ref})
    assert "a" in made.refs
    assert (made.num_parameters, made.num_bytes, list(made.tensors)) == (3, 12, ["a"])
    assert ref.loads == 0
    assert torch.equal(made.tensors["a"], made.tensors["a"])
    assert ref.loads == 2


def test_counts(small: Checkpoint) -> None:
    assert small.num_parameters == 6
    assert small.num_bytes == 24
    assert small.count_nonzero() == 4


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bool, torch.int8])
def test_count_nonzero_of_narrow_dtypes(dtype: torch.dtype) -> None:
    made = Checkpoint({}, {"a": InMemory(torch.tensor([1.0, 0.0, 1.0]).to(dtype))})
    assert made.count_nonzero() == 2


def test_tied_tensors_stand_once() -> None:
    """No code for ties: a tied pair is one reference, so it is counted, hashed and saved once."""
    embedding = torch.nn.Embedding(3, 2)
    head = torch.nn.Linear(2, 3, bias=False)
    head.weight = embedding.weight
    made = Checkpoint({"tie_word_embeddings": True}, {"embed.weight": InMemory(embedding.weight)})
    assert made.num_parameters == sum(p.numel() for p in {*embedding.parameters(), head.weight})
    assert not made.tensors["embed.weight"].requires_grad


def test_repr_names_source_kind_and_size_without_reading_tensors(small: Checkpoint) -> None:
    unread = dataclasses.replace(small, refs=dict(small.refs))
    assert repr(unread) == f"Checkpoint({small.source!r}, tiny, 6 parameters, 0.0 MB)"
    assert "id" not in vars(unread)


names = st.sampled_from("abcd")
changes = st.dictionaries(names, st.integers(-2, 2), max_size=4)


def _made(values: Mapping[str, int]) -> Checkpoint:
    return Checkpoint({}, {name: InMemory(torch.tensor([v])) for name, v in values.items()})


@given(start=st.integers(-2, 2), first=changes, second=changes)
def test_evolve_composes(start: int, first: dict[str, int], second: dict[str, int]) -> None:
    base = _made(dict.fromkeys("abcd", start))
    steps = base.evolve(_tensors(first)).evolve(_tensors(second))
    at_once = base.evolve(_tensors({**first, **second}))
    assert steps.id == at_once.id == _made(dict.fromkeys("abcd", start) | first | second).id
    assert base.id == _made(dict.fromkeys("abcd", start)).id
    back = steps.evolve({name: base.refs[name] for name in {*first, *second}})
    assert back.id == base.id
    untouched = set("abcd") - {*first, *second}
    assert all(steps.refs[name] is base.refs[name] for name in untouched)


def _tensors(values: Mapping[str, int]) -> dict[str, Tensor]:
    return {name: torch.tensor([value]) for name, value in values.items()}


def _outline(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    return {name: StoredTensor.of(ref) for name, ref in checkpoint.refs.items()}
