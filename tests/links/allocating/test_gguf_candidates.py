"""An allocation of ggml types: the GGUF file that is written has the predicted size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_choices import gguf_choices, wide_checkpoint
from tiny_contexts import calibrated
from tiny_gguf import gguf_checkpoint

from birdbone.checkpoints import GgmlBlocks
from birdbone.contexts.allocation import Allocation
from birdbone.engine import Chain, run
from birdbone.errors import LinkError, SettingError
from birdbone.formats.gguf_size import gguf_bytes
from birdbone.formats.gguf_writer import write_gguf
from birdbone.links import allocate, quantize, sensitivity
from birdbone.links.allocating.candidates import (
    Choices,
    allocate_candidates,
    ladder_candidates,
    outlined_candidate,
)


def smallest_bytes(found: Choices) -> int:
    with pytest.raises(SettingError, match="is below the smallest size") as refused:
        allocate_candidates(found, 1, variants=1, uniform=0)
    return int(str(refused.value).split(" bytes with")[0].split()[-1].replace(",", ""))


@pytest.mark.parametrize("variant", ["llama tied", "llama", "gemma3", "gpt2"])
async def test_written_size(variant: str, tmp_path: Path) -> None:
    """By the links; the file has the bytes of the candidate, and every matrix its type."""
    checkpoint = wide_checkpoint(variant)
    chain = Chain(
        sensitivity(format="gguf", windows=2),
        allocate(bytes=int(0.9 * gguf_bytes(checkpoint, kind="q8_0"))),
        quantize(grid="allocated", matching=0.0),
    )
    ctx = await run(chain, calibrated(checkpoint))
    light, found = ctx["checkpoint"], ctx["allocation"]
    assert found.exact
    written = write_gguf(light, tmp_path / "light.gguf")
    assert written.num_bytes == found.current.num_bytes <= found.budget_bytes
    assert found.format == "gguf"
    for name, grid in found.current.grids.items():
        ref = light.refs[f"{name}.weight"]
        assert isinstance(ref, GgmlBlocks)
        assert ref.kind == grid.ggml_type
    tables = sum(isinstance(ref, GgmlBlocks) for ref in light.refs.values())
    assert tables == len(found.current.grids)
    assert len(set(written.kinds)) > 2  # not uniform


@pytest.mark.parametrize("variant", ["llama tied", "qwen3"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_candidates_fit(variant: str, share: float) -> None:
    found = gguf_choices(variant)
    checkpoint = found.checkpoint
    smallest = smallest_bytes(found)
    budget = smallest + int(share * (gguf_bytes(checkpoint, kind="q8_0") - smallest))
    made = allocate_candidates(found, budget, variants=3, uniform=3)
    assert made.exact
    assert not made.current.uniform
    for each in made.candidates:
        assert each.num_bytes == gguf_bytes(outlined_candidate(checkpoint, each)) <= budget
        assert made.current.loss <= each.loss
    if share:
        assert any(each.uniform for each in made.candidates)


def test_smallest_names_the_types() -> None:
    with pytest.raises(SettingError, match=r"with iq4_nl, q2_k; .*allow smaller types") as refused:
        allocate_candidates(
            gguf_choices(types=("iq4_nl", "q2_k", "q8_0")), 1, variants=1, uniform=0
        )
    assert "below the smallest size of 'tiny'" in str(refused.value)


def test_sizes_for_a_rise() -> None:
    found = gguf_choices()
    made = ladder_candidates(found, gguf_bytes(found.checkpoint, kind="f16"), steps=5)
    sizes = [each.num_bytes for each in made.candidates]
    assert sizes == sorted(set(sizes))
    assert sizes[0] == smallest_bytes(found)
    assert made.format == "gguf"


async def test_width_of_no_type(tmp_path: Path) -> None:
    """Matrices of 40 columns stay float16, in the predicted size too."""
    checkpoint = gguf_checkpoint("llama", intermediate_size=40)
    chain = Chain(
        sensitivity(format="gguf", windows=2),
        allocate(bytes="60kB"),
        quantize(grid="allocated", method="rtn"),
    )
    with pytest.warns(UserWarning, match=r"3 matrices, such as .*down_proj', stay float16: .* 40"):
        ctx = await run(chain, calibrated(checkpoint))
    with pytest.warns(UserWarning, match="3 tensors, such as 'blk.0.ffn_down.weight'.* as f16"):
        written = write_gguf(ctx["checkpoint"], tmp_path / "light.gguf")
    assert written.kinds["f16"] == 3
    assert written.num_bytes == ctx["allocation"].current.num_bytes <= 60_000


@pytest.mark.parametrize(
    ("links", "message"),
    [
        (
            [sensitivity(format="gguf", bits=(4,))],
            r"bits=\[4\]\) is not a setting of format 'gguf'",
        ),
        ([sensitivity(types=("q4_0",))], r"types=\['q4_0'\]\) is not a setting of format 'comp"),
        ([sensitivity(format="gguf", types=())], r"types=\(\)\) leaves nothing to estimate"),
        ([sensitivity(format="gguf", types=("q2_k",))], r"of any matrix of 'tiny', .*blocks of 32"),
        ([quantize(grid="allocated", method="rtn")], "needs an allocation; put allocate before"),
    ],
)
async def test_refused(links: list[Any], message: str) -> None:
    with pytest.raises(LinkError, match=message):
        await run(Chain(*links), calibrated(gguf_checkpoint("llama")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bytes": "2kB"}, "2,000 bytes is below the smallest size of 'tiny'.* with iq4_nl"),
        ({"bytes": "1GB"}, "1,000,000,000 bytes, and the weight files of the model take"),
        ({"bytes": "60kB", "allowed_bits": (7,)}, "no ggml type is left whose blocks divide them"),
    ],
)
async def test_budgets_refused(settings: dict[str, Any], message: str) -> None:
    chain = Chain(sensitivity(format="gguf", windows=2), allocate(**settings))
    with pytest.raises(LinkError, match=message):
        await run(chain, calibrated(gguf_checkpoint("llama")))


async def test_signround_is_refused() -> None:
    """It tunes integers; the types of a GGUF file are solved by gptq."""
    found = gguf_choices()
    made = allocate_candidates(found, 10**9, variants=1, uniform=0)
    assert isinstance(made, Allocation)
    ctx = {**calibrated(found.checkpoint), "allocation": made}
    with pytest.raises(LinkError, match=r"method='signround'.* needs packed integers"):
        await run(quantize(grid="allocated", method="signround"), ctx)
