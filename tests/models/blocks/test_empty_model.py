"""The decoder stack is found in the text model, whatever stands beside it."""

from __future__ import annotations

import pytest
from tiny import picture_config, random_model, tiny_windows

from birdbone.models.blocks.empty_model import find_blocks
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
