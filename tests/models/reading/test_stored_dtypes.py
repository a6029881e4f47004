"""Tensors in the dtypes of their folder, or in one dtype."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_checkpoint, tiny_model

from birdbone.checkpoints import Checkpoint, Converted, InMemory
from birdbone.models.reading.stored_dtypes import as_dtype, in_stored_dtypes, widest_dtype

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("dtypes", "widest"),
    [
        ([], FULL),
        ([torch.int64, torch.bool], FULL),
        ([BRAIN, torch.int64], BRAIN),
        ([BRAIN, HALF], FULL),  # neither holds the other's values
        ([HALF, torch.float64], torch.float64),
        ([torch.float8_e4m3fn, HALF], HALF),
        ([torch.float8_e4m3fn], FULL),  # one byte does not compute
    ],
)
def test_the_widest_dtype_holds_every_value(dtypes: list[torch.dtype], widest: torch.dtype) -> None:
    refs = {str(place): InMemory(torch.ones(1).to(each)) for place, each in enumerate(dtypes)}
    assert widest_dtype(refs) == widest


def test_one_dtype_is_that_of_every_float_and_of_the_config() -> None:
    counts = InMemory(torch.arange(3))
    lazy = Converted(InMemory(torch.ones(2)), HALF)
    refs = {"a": InMemory(torch.ones(2)), "b": lazy, "c": counts}
    checkpoint = Checkpoint({"dtype": "float32"}, refs)
    found = as_dtype(checkpoint, BRAIN)
    assert [ref.dtype for ref in found.refs.values()] == [BRAIN, BRAIN, torch.int64]
    assert found.refs["c"] is counts
    assert isinstance(found.refs["b"], Converted)  # read when it is needed
    assert found.config["dtype"] == "bfloat16"
    assert checkpoint.config["dtype"] == "float32"


def test_each_tensor_gets_the_dtype_it_is_stored_in() -> None:
    found = tiny_checkpoint()
    stored = {name: BRAIN if name.endswith("norm.weight") else HALF for name in found.refs}
    opened = Checkpoint(
        {**found.config, "dtype": None},
        {name: Converted(ref, stored[name]) for name, ref in found.refs.items()},
    )
    result = in_stored_dtypes(found, tiny_model(), opened)
    assert {name: ref.dtype for name, ref in result.refs.items()} == stored
    assert result.config["dtype"] == "float16"  # of most values, where the config states none
    stated = Checkpoint({**opened.config, "dtype": "bfloat16"}, opened.refs)
    assert in_stored_dtypes(found, tiny_model(), stated).config["dtype"] == "bfloat16"
