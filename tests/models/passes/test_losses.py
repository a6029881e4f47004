import math

import pytest
import torch

from birdbone.errors import NumericsError
from birdbone.models.passes.losses import check_loss, relative_errors


def test_a_token_of_huge_activations_counts_as_any_other() -> None:
    wanted = torch.tensor([[[3.0, 4.0], [3000.0, 4000.0]]])
    states = wanted + torch.tensor([[[0.5, 0.0], [500.0, 0.0]]])
    torch.testing.assert_close(relative_errors(states, wanted), torch.tensor([0.01, 0.01]))


def test_a_token_of_next_to_nothing_does_not_own_the_loss() -> None:
    wanted = torch.tensor([[[1.0, 0.0], [1e-12, 0.0]]])
    states = wanted + torch.tensor([[[0.0, 0.0], [1e-5, 0.0]]])
    # 1e-10 over 1e-8 of the mean square, which is a half.
    torch.testing.assert_close(relative_errors(states, wanted), torch.tensor([0.0, 0.02]))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_what_is_no_number_is_refused_with_when_and_the_mend(loss: float) -> None:
    with pytest.raises(NumericsError, match=rf"the loss at step 3 is {loss}; lower learning_rate"):
        check_loss(loss, "at step 3", "lower learning_rate")


def test_a_number_passes() -> None:
    assert check_loss(0.5, "at step 3", "lower learning_rate") == 0.5
