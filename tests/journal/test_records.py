"""Values are encoded as JSON and tensors, and come back equal, or are refused by path."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from birdbone.contexts.plan import LinearPlan
from birdbone.journal.records import Decoder, Encoder, Unstorable, storable

LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
VALUES = st.recursive(
    LEAVES | st.text().map(Path),
    lambda inner: st.lists(inner)
    | st.lists(inner).map(tuple)
    | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers()), inner),
    max_leaves=8,
)
TENSOR = torch.arange(3.0)


@storable
@dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


def encoder() -> Encoder:
    return Encoder(lambda tensor: tensor.tolist(), lambda checkpoint: "id")


def decoder() -> Decoder:
    return Decoder(torch.tensor, lambda identity: pytest.fail("there is no checkpoint"))


def through_json(value: Any) -> Any:
    return decoder().value(json.loads(json.dumps(encoder().tree(value))))


@given(VALUES)
def test_every_value_comes_back(value: Any) -> None:
    assert through_json(value) == value


def test_records_and_tensors_come_back() -> None:
    found = through_json(Pair((1, {"a": [TENSOR]}), LinearPlan(0.5, 0.1)))
    assert isinstance(found, Pair)
    assert torch.equal(found.left[1]["a"][0], TENSOR)
    assert found.right == LinearPlan(0.5, 0.1)


def test_nan_and_infinity_come_back() -> None:
    nan, infinity = through_json([math.nan, -math.inf])
    assert math.isnan(nan)
    assert infinity == -math.inf


def test_what_cannot_be_stored_is_named_by_its_path() -> None:
    with pytest.raises(Unstorable, match=r"^\.left\['a'\]\[1\] is a object$"):
        encoder().tree(Pair({"a": [0, object()]}, None))


def test_a_field_of_another_type_is_refused() -> None:
    tree = encoder().tree(LinearPlan(0.5, 0.1))
    tree["fields"]["sparsity"] = "half"
    with pytest.raises(ValueError, match="sparsity"):
        decoder().value(tree)


@pytest.mark.parametrize("tree", [{"record": "os.system", "fields": {}}, {"pickle": "x"}, {}])
def test_a_tree_of_somebody_else_s_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises((LookupError, ValueError)):
        decoder().value(tree)
