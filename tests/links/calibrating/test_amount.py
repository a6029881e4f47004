"""How many windows are the default, and when text is too little."""

import pytest
from tiny import tiny_checkpoint

from birdbone.links.calibrating.amount import default_windows, shortage, widest_input


@pytest.mark.parametrize(("arch", "width"), [("llama", 64), ("gpt2", 128), ("mixtral", 64)])
def test_the_widest_linear_decides(arch: str, width: int) -> None:
    assert widest_input(tiny_checkpoint(arch)) == width


@pytest.mark.parametrize(
    ("width", "length", "windows"),
    [
        (64, 512, 64),  # 64 windows are enough for a narrow model
        (1536, 512, 64),  # 60 would be
        (1536, 256, 120),
        (2048, 512, 80),
        (2049, 512, 81),
        (14336, 512, 512),  # 560 would be: 262 144 tokens are the most
        (14336, 8192, 64),  # but never fewer than 64 windows
    ],
)
def test_the_default_is_20_tokens_per_input_within_bounds(
    width: int, length: int, windows: int
) -> None:
    assert default_windows(width, length) == windows


def test_fewer_than_20_tokens_per_input_are_a_shortage() -> None:
    assert shortage(20 * 64, 64, 16) is None
    found = shortage(20 * 64 - 16, 64, 16)
    assert found is not None
    assert found.startswith("1264 calibration tokens are 19.8 tokens per input width")
    assert found.endswith("(64 inputs), fewer than 20; set windows to 80 or more")
