"""Linears that round their inputs: in memory as reloaded, and to the byte as foretold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_checkpoint
from tiny_contexts import calibrated, codes_of
from tiny_folders import own_logits, plain_logits, written

from birdbone.checkpoints import Checkpoint, ObjectStore, Quantized
from birdbone.contexts.allocation import Allocation, Candidate, LinearGrid
from birdbone.engine import Chain, run
from birdbone.errors import ChainError, LinkError, SettingError
from birdbone.links import profile, prune, quantize, save, score, validate
from birdbone.links.quantizing.forecast import quantize_forecast
from birdbone.links.quantizing.settings import QuantizeSettings
from birdbone.links.saving.formats import chosen_form
from birdbone.links.saving.settings import SaveSettings
from birdbone.links.saving.trial import save_trial
from birdbone.models.planning.outline import outlined_model
from birdbone.models.planning.stored_bytes import stored_bytes
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model

INT8: dict[str, Any] = {"bits": 8, "group_size": None, "input_activations": "int8"}
FLOAT8: dict[str, Any] = {"grid": "fp8", "input_activations": "fp8"}
BLOCKS: dict[str, Any] = {**FLOAT8, "block_size": 32}
BOTH = pytest.mark.parametrize("settings", [INT8, FLOAT8], ids=["int8", "fp8"])
ALL = pytest.mark.parametrize("settings", [INT8, FLOAT8, BLOCKS], ids=["int8", "fp8", "blocks"])


async def made(settings: Mapping[str, Any], dense: Checkpoint | None = None) -> Checkpoint:
    ctx = calibrated(tiny_checkpoint() if dense is None else dense)
    return (await run(quantize(**settings), ctx))["checkpoint"]


def without_rounding(checkpoint: Checkpoint) -> Checkpoint:
    """The same weights, with inputs that are not rounded."""
    plain = {
        n: Quantized(r.codes, r.scales, bits=8, block_size=r.block_size)
        for n, r in codes_of(checkpoint).items()
    }
    return checkpoint.evolve(plain)


def as_bfloat16(checkpoint: Checkpoint) -> Checkpoint:
    stored = {name: ref.load().bfloat16() for name, ref in checkpoint.refs.items()}
    return checkpoint.evolve(stored, config={"dtype": "bfloat16"})


@ALL
@pytest.mark.parametrize("arch", ["llama_tied", "gemma3", "mixtral", "gpt_oss"])
@pytest.mark.filterwarnings("ignore:quantize does not quantise")
async def test_a_folder_computes_what_the_model_in_memory_does(
    arch: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    light = await made(settings, as_bfloat16(tiny_checkpoint(arch)))
    folder = written(light, tmp_path / "light")
    found = own_logits(light)
    assert torch.equal(plain_logits(folder), found)
    assert not torch.equal(own_logits(without_rounding(light)), found)
    half = own_logits(light, torch.bfloat16)
    assert torch.equal(plain_logits(folder, torch.bfloat16), half)


@ALL
@pytest.mark.parametrize("more", [{}, {"embedding_bits": 8}], ids=["", "embedding"])
async def test_bytes_are_foretold(
    settings: dict[str, Any], more: dict[str, Any], tmp_path: Path
) -> None:
    dense = as_bfloat16(tiny_checkpoint("llama_tied"))
    ctx: Any = calibrated(dense)
    foretold = quantize_forecast(ctx, QuantizeSettings(**settings, **more)).adds["checkpoint"]
    light = await made({**settings, **more}, dense)
    folder = written(light, tmp_path / "light")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert stored_bytes(foretold) == stored_bytes(light) == size
    assert torch.equal(plain_logits(folder), own_logits(light))
    files = load_file(folder / "model.safetensors")
    kind = torch.int8 if settings is INT8 else torch.float8_e4m3fn
    assert files["model.layers.0.mlp.up_proj.weight"].dtype == kind


@ALL
async def test_measurements_include_the_rounding(settings: dict[str, Any]) -> None:
    light = await made(settings)
    perplexities = []
    for each in (light, without_rounding(light)):
        ctx = {**calibrated(tiny_checkpoint()), "checkpoint": each}
        perplexities.append((await run(validate(), ctx))["verdict"].heldout.light.value)
    assert perplexities[0] != perplexities[1]


@ALL
async def test_a_saved_model_is_proven_and_read_again(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "light"
    ctx = calibrated(tiny_checkpoint())
    ran = await run(Chain(quantize(**settings), save(path=str(path))), ctx)
    light, source = ran["checkpoint"], find_model(str(path))
    again = open_checkpoint(source, dequantize=False)
    assert {name: ref.digest for name, ref in again.refs.items()} == {
        name: ref.digest for name, ref in light.refs.items()
    }
    drawn = outlined_model(source, None, dequantize=False)
    kinds = {ref.input_activations for ref in codes_of(drawn).values()}
    assert kinds == {settings["input_activations"]}
    assert stored_bytes(drawn) == stored_bytes(light)
    with pytest.warns(UserWarning, match=r"round their inputs.*load\(dequantize=False\) keeps it"):
        dense = open_checkpoint(source)
    assert not codes_of(dense)
    assert torch.equal(own_logits(dense), own_logits(without_rounding(light)))


@ALL
async def test_a_store_keeps_the_rounding(settings: dict[str, Any], tmp_path: Path) -> None:
    light, store = await made(settings), ObjectStore(tmp_path)
    found = store.load(store.save(light))
    assert found.id == light.id != without_rounding(light).id
    assert torch.equal(own_logits(found), own_logits(light))


async def test_blocks_are_solved_for_the_rounded_outputs_of_those_before() -> None:
    light = await made({**INT8, "method": "gptq", "signed": False})
    plain = await made({**INT8, "input_activations": None, "method": "gptq", "signed": False})
    same = [torch.equal(ref.codes, plain.refs[name].codes) for name, ref in codes_of(light).items()]
    assert all(same[:7])  # of the first block, which receives what it always did
    assert not all(same[7:])


async def test_the_rounding_is_tuned_with_rounded_inputs(tmp_path: Path) -> None:
    settings = {**INT8, "method": "signround", "iterations": 2, "batch_size": 1}
    light = await made(settings)
    assert {ref.input_activations for ref in codes_of(light).values()} == {"int8"}
    assert torch.equal(plain_logits(written(light, tmp_path / "x")), own_logits(light))


@BOTH
async def test_pruned_weights_stay_zero(settings: dict[str, Any]) -> None:
    links = Chain(profile(), score(), prune(sparsity=0.5), quantize(**settings))
    ran = await run(links, calibrated(tiny_checkpoint()))
    for ref in codes_of(ran["checkpoint"]).values():
        assert (ref.load() == 0).float().mean() >= 0.5


@pytest.mark.parametrize("block_size", [None, 16])
async def test_weights_alone_may_be_float8(block_size: int | None, tmp_path: Path) -> None:
    light = await made({"grid": "fp8", "block_size": block_size})
    assert {(r.storage_kind, r.input_activations) for r in codes_of(light).values()} == {
        ("fp8", None)
    }
    folder = written(light, tmp_path / "light")
    assert torch.equal(plain_logits(folder), own_logits(light))
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert config["format"] == "float-quantized"
    assert "input_activations" not in config["config_groups"]["group_0"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_activations": "int8"}, r"set grid='int', bits=8, group_size=None, symmetric=True"),
        ({**INT8, "group_size": 16}, r"int8 weights of one scale per row; set"),
        ({**INT8, "symmetric": False}, "symmetric=True"),
        ({**INT8, "grid": "fp8"}, "int8 inputs with int8 weights"),
        ({**INT8, "grid": "q8_0"}, "int8 inputs with int8 weights"),
        ({**INT8, "input_activations": "fp8"}, "set grid='fp8'"),
        ({**INT8, "method": "nf4"}, "method='nf4' by bitsandbytes"),
        ({**INT8, "rank": 2}, "set rank=0"),
        ({**INT8, "overrides": {"*.up_proj": {"bits": 4}}}, r"'\*.up_proj' is given others"),
        ({"grid": "fp8", "method": "gptq"}, "rounded to nearest; set method='rtn'"),
        ({"grid": "fp8", "overrides": {"*": {"bits": 8}}}, "leave overrides unset"),
        ({"grid": "fp8", "symmetric": False}, "no zero points"),
        ({"block_size": 32}, "only fp8 weights have scales per block; set grid='fp8'"),
        ({**INT8, "block_size": 32}, "only fp8 weights have scales per block"),
        ({**BLOCKS, "block_size": 48}, r"'model.layers.0.self_attn.q_proj': block_size 48 does"),
        ({"grid": "fp8", "block_size": 64}, r"divide width 32; sizes that do: 32, 16; or leave"),
        ({"grid": "fp8", "embedding_grid": "q8_0"}, "beside linears on a grid of ggml"),
    ],
)
async def test_what_no_runtime_computes_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LinkError, match=message) as caught:
        await made(settings)
    assert isinstance(caught.value.__cause__, SettingError)


async def test_blocks_take_inputs_without_an_axis_of_windows(tmp_path: Path) -> None:
    light = await made(BLOCKS, tiny_checkpoint("opt"))
    folder = written(light, tmp_path / "light")
    assert torch.equal(plain_logits(folder), own_logits(light))
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    (group,) = config["config_groups"].values()
    assert group["weights"]["block_structure"] == [32, 32]
    inputs = group["input_activations"]
    assert (inputs["strategy"], inputs["group_size"], inputs["dynamic"]) == ("group", 32, True)


async def test_an_override_that_says_the_same_is_accepted() -> None:
    await made({**INT8, "overrides": {"*.up_proj": {"bits": 8}}})


async def test_an_allocation_is_refused() -> None:
    name = "model.layers.0.mlp.up_proj"
    one = Candidate("one", True, {name: LinearGrid(8, None)}, None, 0, 0.0)
    ctx = {**calibrated(tiny_checkpoint()), "allocation": Allocation(1, (one,), 0, True)}
    with pytest.raises(LinkError, match=r"input_activations='int8'.*remove allocate"):
        await run(quantize(input_activations="int8", group_size="auto"), ctx)


@BOTH
async def test_models_that_cannot_have_it_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(LinkError, match=r"no linear of 'tiny/gpt2' can be stored"):
        await made(settings, tiny_checkpoint("gpt2"))
    flat = r"'model.decoder.layers.0.fc1' .*\['model.decoder.layers.\*.fc1', "
    with pytest.raises(LinkError, match=flat):
        await made(settings, tiny_checkpoint("opt"))
    light = await made({**settings, "ignore": ("*.fc1", "*.fc2")}, tiny_checkpoint("opt"))
    assert len(codes_of(light)) == 12


@BOTH
async def test_a_gguf_file_is_refused_before_work(settings: dict[str, Any], tmp_path: Path) -> None:
    path = str(tmp_path / "light.gguf")
    with pytest.raises(ChainError, match=r"do not go together.*input_activations unset"):
        Chain(quantize(**settings), save(path=path))
    light = await made(settings)
    said = r"'model.layers.0.self_attn.q_proj' rounds its inputs to .*load\(dequantize=True\)"
    with pytest.raises(SettingError, match=said):
        chosen_form(light, "gguf", "f16")
    trial: Any = {"checkpoint": light, "dense": light}
    with pytest.raises(SettingError, match=said):
        save_trial(trial, SaveSettings(path=path))
