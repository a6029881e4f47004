"""A low-rank correction beside the integers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_contexts import calibrated, codes_of

from birdbone.engine import run
from birdbone.errors import LinkError
from birdbone.links import quantize


async def test_a_rank_changes_no_code_and_says_what_it_brings() -> None:
    ctx = calibrated(tiny_checkpoint(), num=16, length=32)
    alone, ranked = [await run(quantize(bits=3, group_size=16, rank=r), ctx) for r in (0, 4)]
    for name, ref in codes_of(alone["checkpoint"]).items():
        assert torch.equal(ref.codes, codes_of(ranked["checkpoint"])[name].codes)
    metrics = ranked["history"][-1].metrics
    assert metrics["mean_corrected_error"] < metrics["mean_relative_error"]
    beside = set(ranked["checkpoint"].files) - set(alone["checkpoint"].files)
    assert beside == {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    assert metrics["adapter_bytes"] == sum(len(ranked["checkpoint"].files[n]) for n in beside)
    assert ranked["checkpoint"].num_bytes == alone["checkpoint"].num_bytes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"rank": 40},
            r"q_proj': rank 40 is more than the smaller side of \(32, 32\); set .* to 32",
        ),
        (
            {"rank": 2, "method": "signround"},
            r"corrects packed integers of gptq; set method='gptq'",
        ),
        ({"rank": 2, "symmetric": False}, r"corrects packed integers"),
    ],
)
async def test_a_rank_that_cannot_be_kept_is_refused(given: Any, message: str) -> None:
    with pytest.raises(LinkError, match=message):
        await run(quantize(group_size=16, **given), calibrated(tiny_checkpoint()))
