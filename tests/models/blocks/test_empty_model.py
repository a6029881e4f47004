"""The decoder stack is found in the text model, whatever stands beside it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tiny import picture_config, random_model, tiny_windows
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DeepseekV3Config

from birdbone.checkpoints import Checkpoint
from birdbone.models.blocks.empty_model import empty_model, find_blocks, without_weights
from birdbone.models.reading.opening import as_checkpoint
from birdbone.models.units.remove_layers import keep_layers


@pytest.mark.parametrize("vision_layers", [2, 3])
def test_a_vision_tower_is_never_taken_for_the_decoder(vision_layers: int) -> None:
    model = random_model(picture_config(vision_layers=vision_layers))
    path, blocks = find_blocks(model)
    assert path == "model.language_model.layers"
    assert len(blocks) == 3


def test_removing_layers_leaves_the_vision_tower_alone() -> None:
    """With two text blocks left, the tower of two layers is as deep as the decoder."""
    checkpoint = as_checkpoint(random_model(picture_config(vision_layers=2)))
    shorter = keep_layers(
        checkpoint,
        tiny_windows(2),
        [0, 2],
        lambda fed: fed.weight,
        None,
        batch_size=2,
        announce=lambda done, total: None,
    )
    assert shorter.config["text_config"]["num_hidden_layers"] == 2
    vision = [name for name in checkpoint.refs if "vision_tower" in name]
    assert vision
    assert all(shorter.refs[name] is checkpoint.refs[name] for name in vision)


class Allocated(TorchDispatchMode):
    """The largest number of elements of a tensor made on the CPU."""

    largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.device.type == "cpu":
            self.largest = max(self.largest, made.numel())
        return made


def test_fused_experts_of_full_size_take_no_memory() -> None:
    config = DeepseekV3Config(num_hidden_layers=1, first_k_dense_replace=0).to_dict()
    with Allocated() as seen:
        model = empty_model(Checkpoint({**config, "architectures": ["DeepseekV3ForCausalLM"]}, {}))
    experts = model.get_parameter("model.layers.0.mlp.experts.gate_up_proj")
    assert experts.numel() > 7e9
    assert experts.is_meta
    assert 0 < seen.largest <= 1 << 28


def test_two_threads_leave_torch_as_it_was() -> None:
    """The second tries to begin while the first builds, and ends after it."""
    before = Module.register_parameter
    one_is_in, two_is_in, one_is_out = (threading.Event() for _ in range(3))

    def one() -> None:
        with without_weights():
            one_is_in.set()
            two_is_in.wait(timeout=0.1)
        one_is_out.set()

    def two() -> None:
        one_is_in.wait()
        with without_weights():
            two_is_in.set()
            one_is_out.wait()

    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(one), pool.submit(two)]:
            each.result()
    found, Module.register_parameter = Module.register_parameter, before  # type: ignore[method-assign]
    assert found is before
