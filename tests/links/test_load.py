"""load: a folder as it lies, in the dtype asked for, refused by name where weights are broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_device import NAME, pretended
from tiny import tiny_configs, tiny_model, tiny_tokenizer
from tiny_contexts import digests
from transformers import PreTrainedModel

from birdbone.checkpoints.placement import Placement, current_device
from birdbone.checkpoints.tensors import digest
from birdbone.contexts.flow import Changed, Loaded
from birdbone.engine import Chain, link, run
from birdbone.errors import LinkError, ModelError, NumericsError, SettingError
from birdbone.links import load
from birdbone.links.load import check_weights
from birdbone.models.reading.opening import as_checkpoint


def saved(model: PreTrainedModel, folder: Path) -> str:
    """A folder as transformers saves it."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("arch", tiny_configs)
async def test_a_folder_gives_the_models_own_tensors(arch: str, tmp_path: Path) -> None:
    model = tiny_model(arch)
    after = await run(load(model=saved(model, tmp_path / arch)))
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    expected = {n: digest(t) for n, t in model.state_dict().items() if n not in tied}
    assert digests(after["checkpoint"]) == expected
    assert after["dense"] is after["checkpoint"]
    metrics = after["history"][-1].metrics
    assert metrics["parameters"] == sum(t.numel() for t in set(model.parameters()))
    assert metrics["bytes"] == 4 * metrics["parameters"]
    assert after["history"][-1].checkpoint == after["checkpoint"].id


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
async def test_weights_are_stored_in_the_dtype_asked_for(dtype: Any, tmp_path: Path) -> None:
    model = tiny_model()
    after = await run(load(model=saved(model, tmp_path / "m"), dtype=dtype))
    wanted = getattr(torch, dtype)
    assert {ref.dtype for ref in after["checkpoint"].refs.values()} == {wanted}
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(after["checkpoint"].tensors[name], model.get_parameter(name).to(wanted))
    assert after["checkpoint"].config["dtype"] == dtype


def test_a_dtype_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(SettingError, match=r"load\(dtype='int3'\)"):
        load(model="anything", dtype="int3")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
async def test_weights_that_are_not_finite_are_named_and_counted(
    value: float, tmp_path: Path
) -> None:
    model = tiny_model()
    broken = model.get_parameter("model.layers.1.self_attn.k_proj.weight")
    broken.data[0, :3] = value
    message = r"tensor 'model\.layers\.1\.self_attn\.k_proj\.weight' holds 3 values that are NaN"
    with pytest.raises(LinkError, match=message) as caught:
        await run(load(model=saved(model, tmp_path / "m")))
    assert isinstance(caught.value.__cause__, NumericsError)


async def test_a_dtype_too_narrow_for_a_weight_is_told(tmp_path: Path) -> None:
    model = tiny_model()
    model.get_parameter("model.norm.weight").data[5] = 1e6
    folder = saved(model, tmp_path / "m")
    await run(load(model=folder, dtype="bfloat16"))
    message = r"'model\.norm\.weight' holds 1 values .* dtype torch\.float16 too narrow"
    with pytest.raises(LinkError, match=message):
        await run(load(model=folder, dtype="float16"))


def test_a_bound_may_be_infinite_but_not_nan() -> None:
    made = as_checkpoint(tiny_model()).evolve({"model.norm.weight": torch.full((32,), torch.inf)})
    check_weights(made, bounds=["model.norm.weight"])
    made = made.evolve({"model.norm.weight": torch.full((32,), torch.nan)})
    with pytest.raises(NumericsError, match="32 values that are NaN"):
        check_weights(made, bounds=["model.norm.weight"])


def test_sound_weights_pass() -> None:
    check_weights(as_checkpoint(tiny_model()))


async def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="nowhere") as caught:
        await run(load(model=str(tmp_path / "nowhere")))
    assert isinstance(caught.value.__cause__, ModelError)


async def test_a_gguf_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GG?F" + bytes(100))
    with pytest.raises(LinkError, match=r"'model\.gguf' is not a GGUF file"):
        await run(load(model=str(tmp_path / "model.gguf")))


def test_the_model_must_be_named() -> None:
    with pytest.raises(SettingError, match=r"load\(model\): Field required"):
        load()  # type: ignore[call-arg]


async def test_the_device_goes_into_the_context_and_is_in_force_after(tmp_path: Path) -> None:
    folder = saved(tiny_model(), tmp_path / "m")
    seen = []

    @link
    async def look(ctx: Loaded) -> Changed:
        seen.append(current_device())
        return {"checkpoint": ctx["checkpoint"]}

    with pretended() as ledger:
        after = await run(Chain(load(model=folder, device="cpu"), look()))
        assert after["placement"] == Placement(device="cpu")
        assert ledger.operations == 0
        auto = await run(Chain(load(model=folder), look()))
        assert ledger.operations > 0
    assert "placement" not in auto
    assert seen == [torch.device("cpu"), torch.device(NAME)]
    assert auto["checkpoint"].id == after["checkpoint"].id


async def test_a_device_that_is_not_there_is_refused_before_anything_is_read() -> None:
    with pytest.raises(
        LinkError, match="this machine has no device 'cuda:99'; it has cpu"
    ) as found:
        await run(load(model="no/such/model", device="cuda:99"))
    assert isinstance(found.value.__cause__, SettingError)
