import torch
from torch import nn

from birdbone.models.training.optimiser import Survivors


def _step(*parameters: nn.Parameter) -> None:
    """Many steps of Adam on a loss that pulls every value to 3."""
    survivors = Survivors(parameters)
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        torch.autograd.backward(sum((each - 3).square().sum() for each in parameters))
        survivors.confine()
        optimizer.step()


def test_zeros_of_matrices_and_experts_stay_and_all_else_moves() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((5, 6), (2, 3, 4)):
        values = torch.randn(shape, generator=generator)
        values[torch.rand(shape, generator=generator) < 0.5] = 0.0
        parameter = nn.Parameter(values.clone())
        _step(parameter)
        assert torch.equal(parameter == 0, values == 0)
        assert ((parameter - values).abs()[values != 0] > 0.1).all()


def test_a_vector_that_begins_at_zero_is_free() -> None:
    bias = nn.Parameter(torch.zeros(4))
    _step(bias)
    assert (bias > 0.5).all()


def test_a_parameter_that_no_token_reached_is_left() -> None:
    idle = nn.Parameter(torch.eye(3))
    Survivors([idle]).confine()
    assert idle.grad is None
