"""Settings without an effect are named."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_checkpoint
from tiny_contexts import calibrated

from birdbone.engine import run
from birdbone.links import quantize


@pytest.mark.parametrize(
    ("given", "unused"),
    [
        ({"method": "rtn", "matching": 0.25}, r"matching=0.25\) is not used by method 'rtn'"),
        ({"method": "rtn", "refit": True}, r"refit=True\) .* only by 'gptq', 'signround'"),
        ({"method": "rtn", "sweeps": 2}, r"sweeps=2\) is not used by method 'rtn'"),
        ({"method": "rtn", "order": "natural"}, r"order='natural'\) is not used by method 'rtn'"),
        ({"method": "rtn", "damping": 0.1}, r"damping=0.1\) is not used by method 'rtn'"),
        ({"method": "rtn", "seed": 1}, r"seed=1\) .* 'rtn', only by 'signround'"),
        ({"method": "gptq", "iterations": 9}, r"iterations=9\) is not used by method 'gptq'"),
        (
            {"method": "rtn", "bits": 3, "grid": "q8_0"},
            r"bits=3\) .* with grid 'q8_0', which fixes",
        ),
    ],
)
async def test_what_is_set_for_nothing_is_said(given: Any, unused: str) -> None:
    asked = {"group_size": 16, **given} if "grid" not in given else given
    with pytest.warns(UserWarning, match=rf"quantize\({unused}"):
        await run(quantize(**asked), calibrated(tiny_checkpoint()))


@pytest.mark.parametrize("given", [{"bits": 8}, {"grid": "q4_0"}, {"scales": "searched"}])
async def test_what_bitsandbytes_fixes_is_said_where_it_is_set(given: Any) -> None:
    (name,) = given
    with pytest.warns(UserWarning, match=rf"{name}=.* is not used by method 'llm.int8'"):
        await run(quantize(method="llm.int8", **given), {"checkpoint": tiny_checkpoint()})


async def test_no_matching_is_nothing_asked_for() -> None:
    ctx = calibrated(tiny_checkpoint())
    await run(quantize(method="rtn", group_size=16, matching=0), ctx)  # warnings are errors
