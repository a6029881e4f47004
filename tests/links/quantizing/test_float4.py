"""Weights in FP4: in memory as reloaded by transformers, and to the byte as foretold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import load_file
from tiny import tiny_checkpoint
from tiny_contexts import calibrated, codes_of
from tiny_folders import own_logits, plain_logits, written

from birdbone.checkpoints import Checkpoint, ObjectStore
from birdbone.contexts.allocation import Allocation, Candidate, LinearGrid
from birdbone.engine import Chain, run
from birdbone.errors import LinkError, SettingError
from birdbone.links import profile, prune, quantize, save, score
from birdbone.links.quantizing.forecast import quantize_forecast
from birdbone.links.quantizing.settings import QuantizeSettings
from birdbone.links.saving.formats import chosen_form
from birdbone.models.evaluation.proof import prove
from birdbone.models.planning.outline import outlined_model
from birdbone.models.planning.stored_bytes import stored_bytes
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model

BOTH = pytest.mark.parametrize("grid", ["mxfp4", "nvfp4"])
HALF = torch.bfloat16


def in_bfloat16(arch: str = "llama_tied") -> Checkpoint:
    made = tiny_checkpoint(arch)
    stored = {name: ref.load().bfloat16() for name, ref in made.refs.items()}
    return made.evolve(stored, config={"dtype": "bfloat16"})


async def made(dense: Checkpoint | None = None, **settings: Any) -> Checkpoint:
    ctx = calibrated(in_bfloat16() if dense is None else dense)
    return (await run(quantize(**settings), ctx))["checkpoint"]


@BOTH
@pytest.mark.parametrize("arch", ["llama_tied", "gemma3", "mixtral", "opt"])
@pytest.mark.filterwarnings("ignore:quantize does not quantise")
async def test_a_folder_computes_what_the_model_in_memory_does(
    arch: str, grid: str, tmp_path: Path
) -> None:
    light = await made(in_bfloat16(arch), grid=grid)
    folder = written(light, tmp_path / "light")
    assert torch.equal(plain_logits(folder, HALF), own_logits(light, HALF))
    assert not torch.equal(own_logits(in_bfloat16(arch), HALF), own_logits(light, HALF))


@BOTH
@pytest.mark.parametrize("more", [{}, {"embedding_bits": 8}], ids=["", "embedding"])
async def test_bytes_are_foretold(grid: str, more: Mapping[str, Any], tmp_path: Path) -> None:
    ctx: Any = calibrated(in_bfloat16())
    settings: Any = {"grid": grid, **more}
    foretold = quantize_forecast(ctx, QuantizeSettings(**settings)).adds["checkpoint"]
    light = await made(**settings)
    folder = written(light, tmp_path / "light")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert stored_bytes(foretold) == stored_bytes(light) == size
    assert torch.equal(plain_logits(folder, HALF), own_logits(light, HALF))
    for name, ref in codes_of(light).items():
        assert ref.num_bytes == codes_of(foretold)[name].num_bytes


@BOTH
@pytest.mark.parametrize("method", ["gptq", "rtn"])
async def test_files_are_what_compressed_tensors_writes(
    grid: str, method: str, tmp_path: Path
) -> None:
    """Its codec packs the values and scales into the same bytes, and reads the same values."""
    light = await made(grid=grid, method=method)
    folder = written(light, tmp_path / "light")
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    (group,) = settings["config_groups"].values()
    assert settings["format"] == group["format"] == f"{grid}-pack-quantized"
    scheme = QuantizationScheme.model_validate(group)
    theirs = BaseCompressor.get_value_from_registry(scheme.format)
    files = load_file(folder / "model.safetensors")
    for name, ref in codes_of(light).items():
        module = name.removesuffix("weight")
        ours = {key.removeprefix(module): files[key] for key in files if key.startswith(module)}
        state = {"weight": ref.values(torch.float32), "weight_scale": 2 * ref.scales.float()}
        if grid == "nvfp4":
            state["weight_global_scale"] = ours["weight_global_scale"]
            state["weight_scale"] *= ours["weight_global_scale"]
        packed = theirs.compress(state, scheme)
        assert packed.keys() == ours.keys()
        # The sign of a zero, which its codec keeps, is no part of a value.
        zeros = ours["weight_packed"] & 0x77
        assert torch.equal(packed.pop("weight_packed") & 0x77, zeros)
        for key, part in packed.items():
            assert torch.equal(part.view(torch.uint8), ours[key].view(torch.uint8))
        read = theirs.decompress(ours, scheme)["weight"]
        assert torch.equal(read.float(), ref.values(torch.float32))


@BOTH
async def test_a_saved_model_is_proven_and_read_again(grid: str, tmp_path: Path) -> None:
    path = tmp_path / "light"
    links = Chain(quantize(grid=grid), save(path=str(path)))
    light = (await run(links, calibrated(in_bfloat16())))["checkpoint"]
    proof = await prove(path)
    assert proof.proven
    found = open_checkpoint(find_model(str(path)))
    assert not codes_of(found)
    for name, ref in codes_of(light).items():
        assert torch.equal(found.tensors[name].float(), ref.values(torch.float32))
    drawn = outlined_model(find_model(str(path)), None)
    assert {name: ref.shape for name, ref in drawn.refs.items()} == {
        name: ref.shape for name, ref in found.refs.items()
    }


@BOTH
async def test_a_folder_without_a_record_is_opened_in_bfloat16(grid: str, tmp_path: Path) -> None:
    proof = await prove(written(await made(grid=grid), tmp_path / "light"))
    (opens,) = [check for check in proof.checks if check.name == "opens"]
    assert opens.holds


@BOTH
async def test_a_store_keeps_them(grid: str, tmp_path: Path) -> None:
    light, store = await made(grid=grid), ObjectStore(tmp_path)
    found = store.load(store.save(light))
    assert found.id == light.id
    assert {ref.storage_kind for ref in codes_of(found).values()} == {grid}
    assert found.num_bytes == light.num_bytes
    assert torch.equal(own_logits(found, HALF), own_logits(light, HALF))


@BOTH
async def test_pruned_weights_stay_zero(grid: str) -> None:
    links = Chain(profile(), score(), prune(sparsity=0.5), quantize(grid=grid, sweeps=1))
    ran = await run(links, calibrated(in_bfloat16()))
    for ref in codes_of(ran["checkpoint"]).values():
        assert (ref.load() == 0).float().mean() >= 0.5


@BOTH
async def test_gptq_has_less_output_error_than_round_to_nearest(grid: str) -> None:
    dense = in_bfloat16()
    wanted = own_logits(dense)
    errors = [
        (own_logits(await made(dense, grid=grid, method=method)) - wanted).norm()
        for method in ("gptq", "rtn")
    ]
    assert errors[0] < errors[1]


@BOTH
async def test_a_matrix_of_zeros_is_stored(grid: str, tmp_path: Path) -> None:
    dense = in_bfloat16()
    names = [f"model.layers.0.mlp.{each}_proj.weight" for each in ("gate", "up", "down")]
    dense = dense.evolve({name: torch.zeros_like(dense.tensors[name]) for name in names})
    rows = dense.tensors["model.layers.1.mlp.up_proj.weight"].clone()
    rows[3] = 0
    dense = dense.evolve({"model.layers.1.mlp.up_proj.weight": rows})
    light = await made(dense, grid=grid, method="rtn")
    logits = plain_logits(written(light, tmp_path / "light"), HALF)
    assert logits.isfinite().all()
    assert torch.equal(logits, own_logits(light, HALF))


async def test_what_is_not_finite_is_refused_by_name() -> None:
    dense = in_bfloat16()
    name = "model.layers.1.mlp.up_proj.weight"
    dense = dense.evolve({name: torch.full_like(dense.tensors[name], torch.nan)})
    with pytest.raises(LinkError, match=r"'model.layers.1.mlp.up_proj': the weight holds NaN"):
        await made(dense, grid="nvfp4", method="rtn")


@pytest.mark.parametrize("method", ["gptq", "rtn"])
async def test_linears_that_servers_join_have_one_global_scale(method: str) -> None:
    dense = in_bfloat16()
    name = "model.layers.0.self_attn.q_proj.weight"
    dense = dense.evolve({name: dense.tensors[name] * 100})
    light = await made(dense, grid="nvfp4", method=method)
    found = {n: float(ref.parts()["global_scale"]) for n, ref in codes_of(light).items()}
    for index in range(3):
        for module in ("self_attn", "mlp"):
            inside = [v for n, v in found.items() if f"layers.{index}.{module}." in n]
            assert len(set(inside)) == 1
    assert len(set(found.values())) > 1


@BOTH
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "signround"}, "FP4 weights are made by gptq or rtn"),
        ({"method": "nf4"}, "FP4 weights are made by gptq or rtn"),
        ({"symmetric": False}, "have no zero points"),
        ({"overrides": {"*.up_proj": {"bits": 8}}}, "on one grid; leave linears unquantised"),
        ({"refit": True}, "no numbers of 8 bits; sweeps improves"),
        ({"rank": 2}, "set rank=0"),
        ({"input_activations": "fp8"}, "set grid='fp8'"),
        ({"block_size": 32}, "only fp8 weights have scales per block"),
        ({"embedding_grid": "q8_0"}, "beside linears on a grid of ggml"),
    ],
)
async def test_what_does_not_go_with_it_is_refused(
    grid: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(LinkError, match=message) as caught:
        await made(grid=grid, **settings)
    assert isinstance(caught.value.__cause__, SettingError)


@BOTH
async def test_a_model_that_it_does_not_fit_is_refused(grid: str) -> None:
    with pytest.raises(LinkError, match=r"in bfloat16 only.*set load\(dtype='bfloat16'\)"):
        await made(tiny_checkpoint(), grid=grid)
    with pytest.raises(LinkError, match=r"no linear of 'tiny/gpt2' can be stored"):
        await made(in_bfloat16("gpt2"), grid=grid)
    narrow = tiny_checkpoint("llama", intermediate_size=40)
    stored = {name: ref.load().bfloat16() for name, ref in narrow.refs.items()}
    narrow = narrow.evolve(stored, config={"dtype": "bfloat16"})
    with pytest.raises(LinkError, match=r"0.mlp.down_proj': groups of \d\d, which the format"):
        await made(narrow, grid=grid)
    light = await made(narrow, grid=grid, ignore=("*.down_proj",))
    assert len(codes_of(light)) == 18


@BOTH
async def test_an_allocation_is_refused(grid: str) -> None:
    one = Candidate("one", True, {"model.layers.0.mlp.up_proj": LinearGrid(8, None)}, None, 0, 0.0)
    ctx = {**calibrated(in_bfloat16()), "allocation": Allocation(1, (one,), 0, True)}
    with pytest.raises(LinkError, match="integers that allocate chose bits for"):
        await run(quantize(grid=grid), ctx)


@BOTH
async def test_a_gguf_file_that_would_round_once_more_is_refused(grid: str) -> None:
    light = await made(grid=grid)
    with pytest.raises(SettingError, match=r"would round 'model.*' once more"):
        chosen_form(light, "gguf", "q4_0")
    assert chosen_form(light, "gguf", "f16") == "gguf"
