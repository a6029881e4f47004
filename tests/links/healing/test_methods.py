import pytest
from tiny import tiny_windows

from birdbone.errors import DataError
from birdbone.links.healing.methods import num_heldout


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.1, 1), (0.11, 2), (0.5, 5), (0.9, 9)])
def test_the_last_share_judges(share: float, count: int) -> None:
    assert num_heldout(tiny_windows(10), share) == count


def test_none_left_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match=r"has 2 windows and heldout_share=0\.6 holds out 2.*lower"):
        num_heldout(tiny_windows(2), 0.6)
