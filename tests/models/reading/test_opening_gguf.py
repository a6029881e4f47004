"""A GGUF file opens as the model it was written from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from gguf import GGUFWriter, TokenType
from tiny import tiny_checkpoint, tiny_windows
from torch import Tensor

from birdbone.checkpoints import Checkpoint
from birdbone.errors import BirdboneError, CheckpointError, ModelError
from birdbone.models.blocks.replay import capture, through_blocks
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.reading.tokenizer import load_tokenizer
from birdbone.reports.inspection import inspect_model

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
}

TOKENS = ["<s>", "</s>", "th", "the", *map(chr, range(33, 127)), *map(chr, range(161, 191))]


def gguf_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Tensors as llama.cpp names them, rotary pairs side by side in the rows of q and k."""
    for name, tensor in checkpoint.tensors.items():
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        if heads:
            rows, cols = tensor.shape
            tensor = tensor.view(heads, 2, rows // heads // 2, cols).transpose(1, 2)
            tensor = tensor.reshape(rows, cols)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        yield name, tensor


def write_gguf(
    path: Path,
    *,
    without: str = "",
    tokens: bool = True,
    more: Mapping[str, Tensor] = MappingProxyType({}),
    key: str = "",
    narrow: str = "",
) -> Path:
    """The tiny llama in float32, with a byte-level tokenizer of 128 tokens.

    Args:
        without: a tensor to leave out.
        more: tensors to add.
        key: a key to add.
        narrow: a tensor of which only 8 values are written.
    """
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(128)
    if tokens:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(TOKENS)
        writer.add_token_types([TokenType.CONTROL] * 2 + [TokenType.NORMAL] * 126)
        writer.add_token_merges(["t h", "th e"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
    if key:
        writer.add_float32(key, 0.5)
    for name, tensor in [*gguf_tensors(tiny_checkpoint()), *more.items()]:
        if name != without:
            values = tensor[:8] if name == narrow else tensor
            writer.add_tensor(name, values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_opens_as_the_model_it_was_written_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = open_checkpoint(find_model(str(write_gguf(tmp_path / "tiny.gguf"))))
    assert capsys.readouterr().err == ""
    wanted = tiny_checkpoint()
    assert found.refs.keys() == wanted.refs.keys()
    for name, tensor in wanted.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
    assert found.source == "tiny.gguf"
    assert "quantization_config" not in found.config
    assert load_tokenizer(found).tokenize("then") == ["the", "n"]


@pytest.mark.parametrize("asked", ["../asked/light.gguf", "{tmp_path}/asked/light.gguf"])
def test_a_file_of_that_name_in_the_working_directory_is_not_read(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("asked", "here"):
        (tmp_path / place).mkdir()
    write_gguf(tmp_path / "asked" / "light.gguf")
    (tmp_path / "here" / "light.gguf").write_bytes(b"another model")
    monkeypatch.chdir(tmp_path / "here")
    found = open_checkpoint(find_model(asked.format(tmp_path=tmp_path)))
    for name, tensor in tiny_checkpoint().tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
    assert load_tokenizer(found).tokenize("then") == ["the", "n"]


def test_a_gguf_model_runs_block_by_block(tmp_path: Path) -> None:
    skeleton = Skeleton(open_checkpoint(find_model(str(write_gguf(tmp_path / "tiny.gguf")))))
    (batch,) = capture(skeleton, [tiny_windows().tokens])
    (hidden,) = through_blocks(skeleton, [batch])
    assert torch.isfinite(hidden).all()


def test_a_gguf_file_in_a_package_opens_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny_weights_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    write_gguf(folder / "tiny.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    found = open_checkpoint(find_model("package:tiny_weights_package/tiny.gguf"))
    assert found.source == "tiny_weights_package/tiny.gguf"
    assert found.num_parameters == tiny_checkpoint().num_parameters
    assert "tiny_weights_package" not in sys.modules


def test_a_gguf_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", without="blk.1.ffn_up.weight")
    expected = r"'tiny\.gguf' lacks tensor 'model\.layers\.1\.mlp\.up_proj\.weight' in tiny\.gguf"
    with pytest.raises(CheckpointError, match=expected):
        open_checkpoint(find_model(str(path)))


@pytest.mark.parametrize("name", ["blk.1.attn_q_norm.weight", "output.bias"])
def test_a_tensor_that_is_computed_with_and_not_read(name: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", more={name: torch.ones(8)})
    with pytest.raises(ModelError, match=f"'{name}', for which LlamaForCausalLM has no parameter"):
        open_checkpoint(find_model(str(path)))


@pytest.mark.parametrize(
    "name", ["blk.3.attn_q.weight", "blk.2.nextn.eh_proj.weight", "v.x.weight"]
)
def test_a_tensor_that_is_not_computed_with(name: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", more={name: torch.ones(8)})
    with pytest.warns(UserWarning, match=f"1 tensors .32 bytes. .*{name}"):
        found = open_checkpoint(find_model(str(path)))
    assert [each.name for each in found.left_out] == [name]


def test_a_key_that_is_not_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", key="llama.logit_scale")
    with pytest.warns(UserWarning, match="keys in its header that are not read .llama.logit_scale"):
        open_checkpoint(find_model(str(path)))


def test_a_tensor_of_another_shape(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", narrow="output_norm.weight")
    with pytest.raises(
        CheckpointError, match=r"'model.norm.weight' in shape \(8,\).* asks for \(32,\)"
    ):
        open_checkpoint(find_model(str(path)))


def test_a_gguf_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ModelError, match=r"'tiny\.gguf' cannot be opened"):
        open_checkpoint(find_model(str(path)))


@pytest.mark.parametrize("place", [5, 8, 16, 24, 40, 70, 300, 900])
@pytest.mark.parametrize("damage", ["cut off", "filled with ones"])
def test_a_gguf_header_that_lies_is_refused(damage: str, place: int, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    data = path.read_bytes()
    rest = b"\xff" * 8 + data[place + 8 :] if damage == "filled with ones" else b""
    path.write_bytes(data[:place] + rest)
    for look in (lambda: open_checkpoint(find_model(str(path))), lambda: inspect_model(str(path))):
        with pytest.raises(BirdboneError, match=r"tiny\.gguf"):
            look()


def test_a_gguf_file_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tokens=False)
    with pytest.raises(ModelError, match=r"the tokenizer in 'tiny\.gguf' cannot be read"):
        open_checkpoint(find_model(str(path)))
