import dataclasses

import torch

from birdbone.checkpoints import Checkpoint, Diff, InMemory, diff


def test_a_checkpoint_does_not_differ_from_its_copy(small: Checkpoint) -> None:
    copy = dataclasses.replace(
        small, refs={name: InMemory(tensor.clone()) for name, tensor in small.tensors.items()}
    )
    assert diff(small, copy) == Diff(added=(), removed=(), changed=(), config=(), files=())


def test_everything_that_differs_is_named(small: Checkpoint) -> None:
    after = Checkpoint(
        {"model_type": "tiny", "layers": 1, "quantization": None},
        {"b": InMemory(torch.zeros(2, 1)), "d": InMemory(torch.ones(1)), "c": small.refs["a"]},
        {"tokenizer.json": b"[]", "chat.jinja": b""},
    )
    expected = Diff(
        added=("c", "d"),
        removed=("a",),
        changed=("b",),
        config=("layers", "quantization"),
        files=("chat.jinja", "tokenizer.json"),
    )
    assert diff(small, after) == expected


def test_ids_differ_exactly_when_a_diff_is_not_empty(small: Checkpoint) -> None:
    empty = Diff((), (), (), (), ())
    for after in (
        small.evolve(config={"extra": None}),
        small.evolve({"a": None}),
        dataclasses.replace(small, files={}),
        small.evolve(),
    ):
        assert (diff(small, after) == empty) == (small.id == after.id)
