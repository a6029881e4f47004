"""What transformers does to weights that it has read: weights that it reads, and writes to."""

from __future__ import annotations

import json

import pytest
import torch
from zoo.configs import zoo_config

from birdbone.checkpoints import Checkpoint
from birdbone.models.blocks.initialising import initialised, initialising
from birdbone.models.blocks.linears import all_linears, linears_by_block


def outline(model_type: str) -> Checkpoint:
    """A checkpoint without tensors; the config is all that is looked at."""
    return Checkpoint(json.loads(zoo_config(model_type).to_json_string(use_diff=False)), {})


READS = {
    "llama": set(),
    "nanochat": {f"model.layers.{place}.self_attn.o_proj.weight" for place in (0, 1)},
    "mamba": {  # the parent reads one, and a method of the mixer the other
        f"backbone.layers.{place}.mixer.{name}.weight"
        for place in (0, 1)
        for name in ("out_proj", "dt_proj")
    },
}


@pytest.mark.parametrize("model_type", READS)
def test_the_weights_that_a_class_reads_while_it_loads_are_known(model_type: str) -> None:
    assert initialising(outline(model_type)).reads == READS[model_type]


def test_a_class_may_read_the_weight_of_every_linear() -> None:
    checkpoint = outline("recurrent_gemma")
    found = initialising(checkpoint).reads
    linears = [each for each in all_linears(checkpoint) if each.expert is None]
    assert {each.tensor for each in linears} <= found
    assert not any(each.plain for each in linears)


@pytest.mark.parametrize(
    ("model_type", "written"),
    [
        ("llama", set()),
        ("mamba", set()),
        ("youtu", {"model.embed_tokens.weight", "lm_head.weight"}),
        ("mamba, rescaled", {f"backbone.layers.{n}.mixer.out_proj.weight" for n in (0, 1)}),
    ],
)
def test_parameters_that_a_class_writes_to_are_known(model_type: str, written: set[str]) -> None:
    assert initialising(outline(model_type)).writes == written


def test_a_parameter_is_computed_as_transformers_leaves_it() -> None:
    given = torch.ones(128, 64)
    (made,) = initialised(outline("youtu"), {"model.embed_tokens.weight": given}).values()
    assert not made[0].any()
    assert made[1:].all()
    assert given.all()


def test_linears_read_while_loading_are_not_plain_but_fit_bitsandbytes() -> None:
    for block in linears_by_block(outline("nanochat")):
        kinds = {each.name.rpartition(".")[2]: (each.plain, each.initialised) for each in block}
        assert kinds.pop("o_proj") == (False, True)
        assert set(kinds.values()) == {(True, False)}


def test_linears_that_fit_no_format_anyway_fit_none_by_being_read() -> None:
    falcon = all_linears(outline("falcon"))  # a forward of its own reads the weight
    assert falcon
    assert not any(each.plain or each.initialised for each in falcon)
