"""What several runtimes load together."""

from __future__ import annotations

import pytest

from birdbone.links.allocating.runtimes import RUNTIMES, Limits, Runtime


@pytest.mark.parametrize(
    ("runtimes", "bits", "group_size", "taken"),
    [
        (("transformers",), 3, 8, True),
        (("transformers",), 8, None, True),
        (("vllm",), 4, 64, True),
        (("vllm",), 4, 128, False),
        (("vllm",), 4, None, False),
        (("vllm",), 8, 64, False),
        (("llama.cpp",), 4, 64, True),
        (("llama.cpp",), 8, None, True),
        (("llama.cpp",), 5, 32, True),
        (("llama.cpp",), 4, 48, False),
        (("vllm", "llama.cpp"), 4, 32, True),
        (("vllm", "llama.cpp"), 8, 32, False),
    ],
)
def test_grids(
    runtimes: tuple[Runtime, ...], bits: int, group_size: int | None, taken: bool
) -> None:
    assert Limits(runtimes).takes(bits, group_size, 576) is taken


def test_what_all_of_them_load() -> None:
    everything = Limits(tuple(RUNTIMES))
    assert not everything.mixed
    assert not everything.embedding
    assert not everything.dense
    assert Limits(("transformers",)).dense
    assert Limits(("transformers", "llama.cpp")).mixed
    assert Limits(("transformers", "llama.cpp")).embedding
