"""Hidden states rest where the placement says, and by room where it says nothing."""

from __future__ import annotations

import pytest
import torch
from pretend_device import NAME, pretended

from birdbone.checkpoints.placement import Activations, Placement, current_device, placed
from birdbone.models.blocks.activations import moved, resting_device
from birdbone.models.blocks.shared_state import _states, has_state


@pytest.mark.parametrize(
    ("activations", "num_bytes", "place"),
    [
        ("device", 10_000, NAME),
        ("host", 1, "cpu"),
        ("auto", 250, NAME),
        ("auto", 251, "cpu"),
    ],
)
def test_by_choice_or_by_room(activations: Activations, num_bytes: int, place: str) -> None:
    with pretended(limit=1000), placed(Placement(activations=activations)):
        assert resting_device(current_device(), num_bytes).type == place


def test_on_the_cpu_there_is_one_place() -> None:
    for activations in ("auto", "host", "device"):
        with placed(Placement("cpu", activations)):
            assert resting_device(torch.device("cpu"), 10**15).type == "cpu"


def test_what_blocks_passed_on_goes_along() -> None:
    with pretended():
        states = torch.zeros(3)
        _states[states] = {}
        there = moved(states, torch.device(NAME, 0))
        assert there.device.type == NAME
        assert has_state(there)
        assert moved(there, there.device) is there
