"""A GGUF file holds the model: transformers reads the same values, llama.cpp computes the same."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from llama_cpp import kl_divergence, opened
from tiny import tiny_checkpoint
from tiny_gguf import VARIANTS, checkpoint_with, gguf_checkpoint
from tiny_tokenizers import byte_level
from torch import Tensor

from birdbone.checkpoints import Checkpoint, GgmlBlocks, InMemory, Quantized, TensorRef
from birdbone.engine import run
from birdbone.errors import CheckpointError, ModelError, ResourceError, SettingError
from birdbone.formats.gguf_writer import write_gguf
from birdbone.links import quantize
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.solvers.grid import NAMED_GRIDS

# Half precision in the weights costs 5e-6 nats at most on these; a mistake, a tenth or more.
_KL = 3e-5


def contents(path: Path) -> dict[str, object]:
    """Keys and values of a GGUF file."""
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


def log_probabilities(checkpoint: Checkpoint, tokens: Tensor) -> Tensor:
    """Of each token to come next, as transformers has it."""
    model = Skeleton(checkpoint).fill()
    with torch.no_grad():
        found: Tensor = model(tokens.unsqueeze(0)).logits[0, -1].log_softmax(-1)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_cpp_computes_what_transformers_does(variant: str, tmp_path: Path) -> None:
    checkpoint = gguf_checkpoint(variant)
    path = write_gguf(checkpoint, tmp_path / "model.gguf", kind="f16").path
    size = checkpoint.config["vocab_size"]
    generator = torch.Generator().manual_seed(0)
    with opened(path, context=256) as llama:
        for length in (3, 50):
            tokens = torch.randint(4, size - 3, (length,), generator=generator)
            wanted = log_probabilities(checkpoint, tokens)
            found = llama.log_probabilities(tokens.tolist(), size)
            assert kl_divergence(wanted, found) < _KL


# transformers 5.23 does not read biases of Llama, Qwen 3's head size or GPT-2's context in GGUF.
@pytest.mark.parametrize("variant", ["llama", "llama tied", "qwen2", "gemma2"])
def test_transformers_reads_back_the_very_values(variant: str, tmp_path: Path) -> None:
    checkpoint = gguf_checkpoint(variant)
    path = write_gguf(checkpoint, tmp_path / "model.gguf", kind="f32").path
    found = open_checkpoint(find_model(str(path)))
    assert found.refs.keys() == checkpoint.refs.keys()
    for name, tensor in checkpoint.tensors.items():
        assert torch.allclose(found.tensors[name], tensor, rtol=0, atol=1e-7), name


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    written = write_gguf(gguf_checkpoint(), tmp_path / "model.gguf", kind="q8_0")
    assert written.path == tmp_path / "model.gguf"
    assert written.num_bytes == written.path.stat().st_size
    assert written.kinds == {"f32": 7, "q8_0": 23}
    found = contents(written.path)
    assert found["general.architecture"] == "llama"
    assert found["general.file_type"] == 7
    assert found["llama.attention.head_count_kv"] == 2
    assert found["llama.attention.key_length"] == 8
    assert found["llama.rope.freq_base"] == 10000.0


@pytest.mark.parametrize(
    ("kind", "bits"),
    [("bf16", 16), ("q8_0", 8.5), ("q4_0", 4.5), ("q4_1", 5), ("q5_0", 5.5), ("q5_1", 6)],
)
def test_linears_take_the_bits_of_their_type(kind: str, bits: float, tmp_path: Path) -> None:
    path = write_gguf(gguf_checkpoint(), tmp_path / "model.gguf", kind=kind).path
    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    linear = tensors["blk.1.ffn_up.weight"]
    assert linear.n_bytes * 8 == linear.n_elements * bits
    assert tensors["blk.1.ffn_norm.weight"].tensor_type.name == "F32"


@pytest.mark.parametrize(("variant", "head"), [("llama", "output"), ("llama tied", "token_embd")])
def test_the_head_has_more_bits_than_the_linears(variant: str, head: str, tmp_path: Path) -> None:
    path = write_gguf(gguf_checkpoint(variant), tmp_path / "model.gguf", kind="q4_0").path
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
    assert types.pop(f"{head}.weight") == "Q8_0"
    assert set(types.values()) == {"Q4_0", "F32"}


def test_a_width_that_blocks_do_not_divide_stays_in_half_precision(tmp_path: Path) -> None:
    checkpoint = gguf_checkpoint("llama hollowed")
    expected = r"4 tensors, such as 'blk\.0\.attn_output\.weight', are written as f16"
    with pytest.warns(UserWarning, match=expected):
        written = write_gguf(checkpoint, tmp_path / "model.gguf", kind="q4_0")
    assert set(written.fallbacks.values()) == {"f16"}
    assert "blk.0.ffn_down.weight" in written.fallbacks


@pytest.mark.parametrize("kind", NAMED_GRIDS)
async def test_llama_cpp_decodes_as_we_do(kind: Any, tmp_path: Path) -> None:
    """Every matrix, embedding and head included, in one type; llama.cpp rounds activations too."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
    link = quantize(method="rtn", grid=kind, embedding_grid=kind)
    light = (await run(link, {"checkpoint": gguf_checkpoint("llama tied", **sizes)}))["checkpoint"]
    path = write_gguf(light, tmp_path / "model.gguf").path
    types = {tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
    assert types == {kind.upper(), "F32"}
    size = int(light.config["vocab_size"])
    tokens = torch.randint(4, size - 3, (20,), generator=torch.Generator().manual_seed(0))
    wanted = log_probabilities(light, tokens)
    with opened(path, context=256) as llama:
        found = llama.log_probabilities(tokens.tolist(), size)
    # Rounded activations cost 4e-3 of the variance at most; another layout, about all of it.
    assert kl_divergence(wanted, found) < 1e-2 * float(wanted.std()) ** 2


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        write_gguf(gguf_checkpoint(), tmp_path / name, kind="q4_0").path for name in "ab"
    )
    assert first.read_bytes() == second.read_bytes()


def test_an_architecture_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"architecture 'opt' cannot be written as GGUF; known:"):
        write_gguf(tiny_checkpoint("opt"), tmp_path / "model.gguf")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variant", "values", "why"),
    [
        ("llama", {"hidden_act": "gelu"}, r"llama with hidden_act='gelu'"),
        ("gemma2", {"query_pre_attn_scalar": 16}, r"query_pre_attn_scalar=16.* only 8"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx"),
        ("phi3", {"num_attention_heads": 2, "head_dim": 8}, r"heads of 32 values in all"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            r"rope_type 'dynamic'",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    variant: str, values: dict[str, object], why: str, tmp_path: Path
) -> None:
    checkpoint = gguf_checkpoint(variant)
    changed = replace(checkpoint, config={**checkpoint.config, **values})
    with pytest.raises(ModelError, match=why):
        write_gguf(changed, tmp_path / "model.gguf")
    assert not any(tmp_path.iterdir())


def test_a_window_that_llama_cpp_has_not_is_warned_of(tmp_path: Path) -> None:
    checkpoint = gguf_checkpoint("mistral", sliding_window=16)
    with pytest.warns(UserWarning, match=r"no sliding window for mistral: beyond 16 tokens"):
        write_gguf(checkpoint, tmp_path / "model.gguf")


def test_more_than_float16_holds_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = gguf_checkpoint()
    name = "model.layers.1.mlp.up_proj.weight"
    large = checkpoint.evolve({name: checkpoint.tensors[name] * 1e6})
    with pytest.raises(
        CheckpointError, match=r"'blk\.1\.ffn_up\.weight' holds .* does not fit in float"
    ):
        write_gguf(large, tmp_path / "model.gguf", kind="f16")
    assert not any(tmp_path.iterdir())
    assert write_gguf(large, tmp_path / "model.gguf", kind="bf16").num_bytes


def test_a_file_of_ours_is_replaced_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_text("somebody's")
    with pytest.raises(SettingError, match=r"exists and was not written by birdbone"):
        write_gguf(gguf_checkpoint(), target)
    assert target.read_text() == "somebody's"
    first = write_gguf(gguf_checkpoint(), target, force=True)
    second = write_gguf(gguf_checkpoint(), target, kind="q8_0")
    assert second.num_bytes < first.num_bytes
    with pytest.raises(SettingError, match=r"is a folder; give a file"):
        write_gguf(gguf_checkpoint(), tmp_path)


def test_whoever_stops_midway_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    write_gguf(gguf_checkpoint(), target)
    before = target.read_bytes()

    def stop(done: int, total: int) -> None:
        if done == total // 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        write_gguf(gguf_checkpoint(), target, kind="q8_0", announce=stop)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_disk_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=r"GB of disk"):
        write_gguf(gguf_checkpoint(), tmp_path / "model.gguf")
    assert not any(tmp_path.iterdir())


def test_a_kind_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"kind 'q3_x' is not known; choose one of f32"):
        write_gguf(gguf_checkpoint(), tmp_path / "model.gguf", kind="q3_x")


def test_the_tokenizer_may_not_be_larger_than_the_embedding(tmp_path: Path) -> None:
    tokenizer = byte_level()
    checkpoint = checkpoint_with(tokenizer, vocab_size=len(tokenizer) - 5)
    with pytest.raises(ModelError, match=r"a token of id \d+, but the embedding has only"):
        write_gguf(checkpoint, tmp_path / "model.gguf")


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
async def test_solved_codes_are_written_as_they_are(variant: str, tmp_path: Path) -> None:
    """Rows of q and k in llama.cpp's order, Conv1D turned, every block else untouched."""
    ctx = {"checkpoint": gguf_checkpoint(variant)}
    light = (await run(quantize(method="rtn", grid="q4_0"), ctx))["checkpoint"]
    written = write_gguf(light, tmp_path / "model.gguf")
    assert contents(written.path)["general.file_type"] == 2
    tensors = {tensor.name: tensor for tensor in GGUFReader(written.path).tensors}
    down = "model.layers.0.mlp.down_proj" if variant == "llama" else "transformer.h.0.mlp.c_proj"
    held = light.refs[f"{down}.weight"]
    assert isinstance(held, GgmlBlocks)
    assert np.array_equal(tensors["blk.0.ffn_down.weight"].data, held.blocks.numpy())
    exact = write_gguf(replace(light, refs=as_values(light)), tmp_path / "exact.gguf", kind="f32")
    for tensor in GGUFReader(exact.path).tensors:
        found = tensors[tensor.name]
        if found.tensor_type.name == "Q4_0" and "embd" not in tensor.name:
            values = dequantize(found.data, found.tensor_type)
            assert np.array_equal(values, tensor.data), tensor.name


@pytest.mark.parametrize(("bits", "kind"), [(4, "Q4_0"), (8, "Q8_0")])
async def test_packed_codes_are_blocks_of_the_same_values(
    bits: int, kind: str, tmp_path: Path
) -> None:
    """Scales in bfloat16, one for two blocks of 32."""
    given = gguf_checkpoint("llama", hidden_size=64, intermediate_size=128)
    given = replace(
        given, refs={n: InMemory(each.to(torch.bfloat16)) for n, each in given.tensors.items()}
    )
    chain = quantize(method="rtn", bits=bits, group_size=64)
    light = (await run(chain, {"checkpoint": given}))["checkpoint"]
    written = write_gguf(light, tmp_path / "model.gguf")
    exact = write_gguf(light, tmp_path / "exact.gguf", kind="f32")
    assert set(exact.kinds) == {"f32"}
    values = {tensor.name: tensor.data for tensor in GGUFReader(exact.path).tensors}
    blocks = [each for each in GGUFReader(written.path).tensors if each.tensor_type.name == kind]
    linears = [each for each in blocks if "embd" not in each.name and each.name != "output.weight"]
    assert len(linears) == 7 * light.config["num_hidden_layers"]
    for each in linears:
        products = torch.from_numpy(dequantize(each.data, each.tensor_type))
        rounded = products.to(torch.bfloat16).float().numpy()  # as a reader in bfloat16 has them
        assert np.array_equal(rounded, values[each.name])


async def test_codes_written_otherwise_than_asked_are_told(tmp_path: Path) -> None:
    ctx = {"checkpoint": gguf_checkpoint("llama")}
    eight = (await run(quantize(method="rtn", bits=8, group_size=32), ctx))["checkpoint"]
    in_half = {
        name: Quantized(ref.codes, ref.scales.half(), bits=8) if isinstance(ref, Quantized) else ref
        for name, ref in eight.refs.items()
    }
    with pytest.warns(UserWarning, match=r"21 tensors, such as .* are written as q8_0, which"):
        write_gguf(replace(eight, refs=in_half), tmp_path / "codes.gguf", kind="q4_0")
    with pytest.warns(
        UserWarning, match=r"21 quantised tensors, .* are dequantised and written as f16: ggml's"
    ):
        write_gguf(eight, tmp_path / "values.gguf")


def as_values(checkpoint: Checkpoint) -> dict[str, TensorRef]:
    return {name: InMemory(tensor.contiguous()) for name, tensor in checkpoint.tensors.items()}


async def test_llama_cpp_computes_what_was_solved_for(tmp_path: Path) -> None:
    ctx = {"checkpoint": gguf_checkpoint("llama", intermediate_size=256)}
    with pytest.warns(UserWarning, match="uses q5_0"):
        light = (await run(quantize(method="rtn", grid="q4_k"), ctx))["checkpoint"]
    with pytest.warns(
        UserWarning, match=r"1 tensors, such as 'token_embd.weight', are written as q5_0: the"
    ):
        written = write_gguf(light, tmp_path / "model.gguf")
    assert written.kinds == {"f32": 7, "q4_k": 3, "q5_0": 19, "q8_0": 1}
    tokens = torch.arange(20, 50)
    size = light.config["vocab_size"]
    with opened(written.path) as llama:
        found = llama.log_probabilities(tokens.tolist(), size)
    # llama.cpp rounds what flows into quantised linears to eight bits.
    assert kl_divergence(log_probabilities(light, tokens), found) < 1e-2
