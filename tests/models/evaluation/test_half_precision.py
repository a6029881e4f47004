"""A model stored in float16 is judged in float16, and refused by name where that is too narrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import calibrated, overflowing
from tiny_folders import written

from birdbone.checkpoints import Checkpoint
from birdbone.engine import run
from birdbone.errors import LinkError, NumericsError
from birdbone.links import load, validate
from birdbone.models.blocks.device import judged_dtype
from birdbone.models.evaluation.half_precision import check_half
from birdbone.models.evaluation.record import make_record
from birdbone.models.evaluation.scoring import own_perplexity

CPU = torch.device("cpu")
TOO_NARROW = (
    r"model\.layers\.0 gave \d+ values that are NaN or infinite; .* dtype torch\.float16 is too "
    r"narrow: load\(dtype='bfloat16'\)"
)


def in_float16(checkpoint: Checkpoint) -> Checkpoint:
    stored = {name: ref.load().half() for name, ref in checkpoint.refs.items()}
    return checkpoint.evolve(stored, config={"dtype": "float16"})


def test_only_float16_is_judged_in_what_it_is_stored_in() -> None:
    assert judged_dtype(in_float16(tiny_checkpoint()), CPU) == torch.float16
    for dtype in ("bfloat16", "float32"):
        assert judged_dtype(tiny_checkpoint().evolve(config={"dtype": dtype}), CPU) == torch.float32


@pytest.mark.parametrize("dtype", ["auto", "float16"])
async def test_load_refuses_what_overflows(dtype: Any, tmp_path: Path) -> None:
    checkpoint = overflowing(tiny_checkpoint())
    stored = in_float16(checkpoint) if dtype == "auto" else checkpoint
    folder = str(written(stored, tmp_path / "m"))
    with pytest.raises(LinkError, match=TOO_NARROW) as caught:
        await run(load(model=folder, dtype=dtype))
    assert isinstance(caught.value.__cause__, NumericsError)
    await run(load(model=folder, dtype="bfloat16"))


def test_a_model_that_fits_passes() -> None:
    check_half(in_float16(tiny_checkpoint()))
    check_half(overflowing(tiny_checkpoint()))  # in float32


async def test_validate_judges_both_models_in_float16() -> None:
    checkpoint = in_float16(tiny_checkpoint())
    after = await run(validate(), calibrated(checkpoint))
    assert after["verdict"].heldout.dtype == "float16"
    assert {states.dtype for states in after["reference"].hidden.values()} == {torch.float16}
    with pytest.raises(LinkError, match=TOO_NARROW):
        await run(validate(), calibrated(in_float16(overflowing(tiny_checkpoint()))))


def test_the_record_of_a_folder_is_made_in_float16() -> None:
    def silent(label: str, done: int, total: int) -> None:
        """Announce nothing."""

    checkpoint, windows = in_float16(tiny_checkpoint()), tiny_windows(2)
    record = make_record(checkpoint, windows, tolerance=0.1, announce=silent)
    assert record.dtype == "float16"
    exact = own_perplexity(tiny_checkpoint(), windows, announce=silent)
    found = own_perplexity(checkpoint, windows, announce=silent)
    assert found == pytest.approx(exact, rel=1e-2)
    assert found != exact


def test_logits_that_overflow_are_named_too() -> None:
    checkpoint = tiny_checkpoint()
    wide = {"lm_head.weight": checkpoint.tensors["lm_head.weight"] * 1e5}
    with pytest.raises(NumericsError, match="the output head gave"):
        own_perplexity(
            in_float16(checkpoint.evolve({n: t.clamp(-6e4, 6e4) for n, t in wide.items()})),
            tiny_windows(2),
            announce=lambda label, done, total: None,
        )
