"""The placement in force decides the device, and no longer than it is in force."""

from __future__ import annotations

import pytest
import torch
from pretend_device import NAME, pretended

from birdbone.checkpoints.devices import best_device
from birdbone.checkpoints.placement import Placement, current_device, on_device, placed
from birdbone.errors import SettingError


def test_the_choice_is_in_force_inside() -> None:
    with pretended():
        assert current_device() == torch.device(NAME)
        with placed(Placement(device="cpu")):
            assert current_device() == torch.device("cpu")
            with on_device(f"{NAME}:0"), placed(None), on_device(None):
                assert current_device() == torch.device(NAME, 0)
            assert current_device() == torch.device("cpu")
        assert current_device() == torch.device(NAME)
    assert current_device() == best_device()


def test_an_error_ends_it_too() -> None:
    with pretended():
        with pytest.raises(KeyError), placed(Placement(device="cpu")):
            raise KeyError
        assert current_device() == torch.device(NAME)


def test_a_device_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(SettingError, match="no device 'cuda:99'"), on_device("cuda:99"):
        pass
