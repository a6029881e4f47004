"""What is written loads in plain transformers and computes what the checkpoint computes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs, tiny_model
from tiny_folders import (
    GIB,
    all_weights,
    for_bitsandbytes,
    own_logits,
    plain_logits,
    quantized,
    written,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from birdbone.checkpoints import BitsAndBytes, GgmlBlocks, InMemory, Quantized, open_folder
from birdbone.errors import Cancelled, CheckpointError, MissingExtraError
from birdbone.models.codecs import bitsandbytes as bitsandbytes_room
from birdbone.models.codecs.bitsandbytes import int8_values, nf4_values
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.writing.folder import converted_together, weight_format, write_model
from birdbone.solvers.grid import Grid

BLOCK_LINEARS = ("llama", "qwen3", "gemma3", "opt", "gpt_neox", "phi3", "mixtral", "gpt_oss")


@pytest.mark.parametrize("arch", tiny_configs)
def test_a_dense_folder_computes_exactly_the_same(arch: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(arch)
    folder = written(checkpoint, tmp_path / "light")
    assert torch.equal(plain_logits(folder), own_logits(checkpoint))


@pytest.mark.parametrize("arch", tiny_configs)
def test_the_files_hold_what_save_pretrained_would_write(arch: str, tmp_path: Path) -> None:
    tiny_model(arch).save_pretrained(tmp_path / "theirs")
    theirs = all_weights(tmp_path / "theirs")
    ours = all_weights(written(tiny_checkpoint(arch), tmp_path / "ours", max_shard_bytes=40_000))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("arch", BLOCK_LINEARS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_folder_computes_exactly_the_same(
    arch: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    stored = {n: ref.load().to(dtype) for n, ref in tiny_checkpoint(arch).refs.items()}
    checkpoint = quantized(tiny_checkpoint(arch).evolve(stored, config={"dtype": str(dtype)[6:]}))
    folder = written(checkpoint, tmp_path / "light")
    assert weight_format(checkpoint) == "packed"
    assert torch.equal(plain_logits(folder), own_logits(checkpoint))
    assert torch.equal(plain_logits(folder, dtype), own_logits(checkpoint, dtype))


def test_layers_may_have_different_grids_in_one_folder(tmp_path: Path) -> None:
    checkpoint = quantized(
        tiny_checkpoint(),
        down_proj=Grid(bits=8, group_size=None),
        up_proj=Grid(bits=3, group_size=8),
    )
    folder = written(checkpoint, tmp_path / "light")
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    found = {
        (group["weights"]["num_bits"], group["weights"].get("group_size"), len(group["targets"]))
        for group in settings["config_groups"].values()
    }
    assert found == {(4, 16, 15), (8, None, 3), (3, 8, 3)}
    assert torch.equal(plain_logits(folder), own_logits(checkpoint))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_every_width_of_code_survives(bits: int, tmp_path: Path) -> None:
    checkpoint = quantized(tiny_checkpoint(), every=Grid(bits=bits, group_size=32))
    folder = written(checkpoint, tmp_path / "light")
    assert torch.equal(plain_logits(folder), own_logits(checkpoint))


def test_linears_left_dense_are_in_the_ignore_list(tmp_path: Path) -> None:
    checkpoint = quantized(tiny_checkpoint())
    kept = "model.layers.1.mlp.up_proj"
    dense = tiny_checkpoint().refs[f"{kept}.weight"]
    checkpoint = checkpoint.evolve({f"{kept}.weight": dense})
    folder = written(checkpoint, tmp_path / "light")
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert settings["ignore"] == [kept, "lm_head"]
    assert settings["config_groups"]["group_0"]["targets"] == ["Linear"]
    assert "sparsity_config" not in settings
    assert torch.equal(all_weights(folder)[f"{kept}.weight"], dense.load())
    assert torch.equal(plain_logits(folder), own_logits(checkpoint))


def test_a_packed_folder_is_smaller_by_what_the_bits_say(tmp_path: Path) -> None:
    checkpoint = quantized(tiny_checkpoint())
    weights = all_weights(written(checkpoint, tmp_path / "light"))
    name = "model.layers.0.mlp.down_proj.weight"
    assert weights[f"{name}_packed"].nbytes == 32 * 64 // 2
    assert weights[f"{name}_shape"].tolist() == [32, 64]
    assert name not in weights


def test_zero_points_are_refused_with_the_mend(tmp_path: Path) -> None:
    checkpoint = quantized(tiny_checkpoint(), every=Grid(4, 16, symmetric=False))
    with pytest.raises(CheckpointError, match=r"q_proj.weight' .* zero points.*symmetric=True"):
        written(checkpoint, tmp_path / "light")


def test_a_quantised_weight_that_is_no_linear_is_refused(tmp_path: Path) -> None:
    name = "transformer.h.0.mlp.c_fc.weight"
    codes = Quantized(torch.zeros(32, 128, dtype=torch.int8), torch.ones(32, 1), bits=4)
    with pytest.raises(CheckpointError, match=f"'{name}' is quantised but belongs to no nn.Linear"):
        written(tiny_checkpoint("gpt2").evolve({name: codes}), tmp_path / "light")


def test_two_formats_in_one_folder_are_refused(tmp_path: Path) -> None:
    checkpoint = for_bitsandbytes(tiny_checkpoint(hidden_size=64), "nf4")
    name = "model.layers.0.mlp.up_proj.weight"
    mixed = checkpoint.evolve({name: quantized(tiny_checkpoint(hidden_size=64)).refs[name]})
    with pytest.raises(CheckpointError, match="quantised as nf4 and packed; one folder holds one"):
        written(mixed, tmp_path / "light")


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    folder = written(tiny_checkpoint("llama_tied"), tmp_path / "light")
    names = all_weights(folder).keys()
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


def test_no_negative_zero_is_written(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    checkpoint = tiny_checkpoint().evolve({name: torch.full((64, 32), -0.0)})
    found = all_weights(written(checkpoint, tmp_path / "light"))[name]
    assert not torch.signbit(found).any()


@pytest.mark.parametrize("arch", ["llama", "mixtral"])
def test_the_same_checkpoint_gives_the_same_bytes(arch: str, tmp_path: Path) -> None:
    first, second = (
        written(quantized(tiny_checkpoint(arch)), tmp_path / name, max_shard_bytes=40_000)
        for name in ("first", "second")
    )
    names = sorted(path.name for path in first.iterdir())
    assert len(names) > 4
    assert names == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_small_files_are_kept_to_the_byte(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    files = {**checkpoint.files, "chat_template.jinja": b"{{ odd }}\r\n"}
    folder = written(replace(checkpoint, files=files), tmp_path / "light")
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert json.loads((folder / "config.json").read_text()) == dict(checkpoint.config)
    assert AutoTokenizer.from_pretrained(folder)("the")["input_ids"]


def test_writing_stops_where_the_caller_says(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Cancelled(f"stopped at {done} of {total}")

    (tmp_path / "light").mkdir()
    with pytest.raises(Cancelled, match="stopped at 2 of 30"):
        write_model(tiny_checkpoint(), tmp_path / "light", max_shard_bytes=GIB, announce=stop)


@pytest.mark.parametrize("kind", ["nf4", "nf4.single", "llm.int8"])
def test_bitsandbytes_computes_with_the_values_that_were_measured(
    kind: str, tmp_path: Path
) -> None:
    checkpoint = for_bitsandbytes(tiny_checkpoint(hidden_size=64), kind)
    folder = written(checkpoint, tmp_path / "light")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    linear = model.model.layers[1].mlp.down_proj
    expected = checkpoint.tensors["model.layers.1.mlp.down_proj.weight"]
    if kind != "llm.int8":
        from bitsandbytes.functional import dequantize_4bit

        assert linear.weight.quant_state.nested == (kind == "nf4")
        found = dequantize_4bit(linear.weight.data, linear.weight.quant_state)
    else:
        found = linear.weight.data.float() * (linear.weight.SCB.unsqueeze(1) / 127)
    assert torch.equal(found, expected)
    assert type(model.lm_head) is torch.nn.Linear
    assert weight_format(checkpoint) == kind.removesuffix(".single")
    assert not list(folder.glob(".dense*"))
    assert (folder / "tokenizer.json").read_bytes() == checkpoint.files["tokenizer.json"]


@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
@pytest.mark.parametrize("kind", ["nf4", "llm.int8"])
def test_a_bitsandbytes_folder_loads_plainly(kind: str, tmp_path: Path) -> None:
    """LLM.int8 rounds activations too, and NF4 runs in bfloat16 on CPUs made for that."""
    from bitsandbytes.functional import has_avx512bf16

    bound = {"nf4": 0.04 if has_avx512bf16() else 1e-5, "llm.int8": 0.05}[kind]
    checkpoint = for_bitsandbytes(tiny_checkpoint(hidden_size=64), kind)
    folder = written(checkpoint, tmp_path / "light")
    expected = own_logits(checkpoint)
    assert float((plain_logits(folder) - expected).norm() / expected.norm()) < bound


def test_a_linear_not_handed_over_stays_dense_beside_bitsandbytes(tmp_path: Path) -> None:
    kept = "model.layers.1.mlp.up_proj.weight"
    dense = tiny_checkpoint(hidden_size=64).refs[kept]
    checkpoint = for_bitsandbytes(tiny_checkpoint(hidden_size=64), "nf4").evolve({kept: dense})
    folder = written(checkpoint, tmp_path / "light")
    assert torch.equal(all_weights(folder)[kept], dense.load())


def test_values_stand_in_the_dtype_given_and_leave_the_weight_alone() -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    before = weight.clone()
    for values in (nf4_values(weight), int8_values(weight)):
        assert values.dtype == torch.bfloat16
        assert 0 < float((values - weight).float().norm() / weight.float().norm()) < 0.12
    assert torch.equal(weight, before)


def test_unusable_bitsandbytes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    def broken(name: str, *args: Any) -> Any:
        if name == "bitsandbytes":
            raise ImportError("no such library")
        return real(name, *args)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(MissingExtraError, match=r"no such library.*birdbone\[bitsandbytes\]"):
        bitsandbytes_room.nf4_values(torch.ones(64, 64))


def test_in_memory_sources_are_what_bitsandbytes_is_given(tmp_path: Path) -> None:
    """Quantising the dequantised values again would drift; the source is quantised once."""
    source = torch.randn(64, 64, generator=torch.Generator().manual_seed(3))
    name = "model.layers.0.mlp.up_proj.weight"
    ref = BitsAndBytes(InMemory(source), torch.zeros(64, 64), kind="nf4")
    folder = written(tiny_checkpoint(hidden_size=64).evolve({name: ref}), tmp_path / "light")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weight = model.model.layers[0].mlp.up_proj.weight
    from bitsandbytes.functional import dequantize_4bit

    assert torch.equal(dequantize_4bit(weight.data, weight.quant_state), nf4_values(source))


def test_ggml_blocks_are_written_as_the_values_they_stand_for(tmp_path: Path) -> None:
    dense = tiny_checkpoint()
    dense = replace(dense, config={**dense.config, "dtype": "bfloat16"})
    name = "model.layers.0.mlp.up_proj.weight"
    scale = torch.full((64, 1), 0.5, dtype=torch.float16).view(torch.uint8)
    codes = torch.randint(0, 255, (64, 32), dtype=torch.uint8)
    blocks = GgmlBlocks(torch.cat([scale, codes], 1), kind="q8_0")
    light = dense.evolve({name: blocks})
    assert weight_format(light) == "dense"
    with pytest.warns(UserWarning, match=r"1 weights on ggml's blocks are written as the values"):
        write_model(light, tmp_path, max_shard_bytes=1 << 30)
    found = open_folder(tmp_path)[name]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.load().float(), blocks.load())


@pytest.mark.parametrize("kind", ["nf4", "nf4.single", "llm.int8"])
def test_a_bitsandbytes_folder_is_written_before_any_forward(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AVX512-BF16 a forward repacks 4-bit weights in place, and what is saved is garbage."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    def forward(module: Any, *args: Any) -> Any:
        raise AssertionError("a forward before the folder was saved")

    for layer in (Linear4bit, Linear8bitLt):
        monkeypatch.setattr(layer, "forward", forward)
    checkpoint = for_bitsandbytes(tiny_checkpoint(hidden_size=64), kind)
    folder = written(checkpoint, tmp_path / "light")
    with pytest.raises(AssertionError, match="a forward before"):
        plain_logits(folder)
    again = open_checkpoint(find_model(str(folder)))
    for name, ref in checkpoint.refs.items():
        assert torch.equal(again.tensors[name], ref.load().float()), name


def test_only_names_that_are_converted_together_are_in_memory_together() -> None:
    """transformers writes the experts of a block one by one."""
    plain, experts = tiny_checkpoint(), tiny_checkpoint("mixtral")
    assert converted_together(plain) == [[name] for name in plain.refs]
    groups = converted_together(experts)
    assert sorted(name for group in groups for name in group) == sorted(experts.refs)
    blocks = {tuple({name.split(".")[2] for name in group if "layers" in name}) for group in groups}
    assert blocks == {(), ("0",), ("1",), ("2",)}
