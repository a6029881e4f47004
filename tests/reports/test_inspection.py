import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from rich.console import Console
from tiny import tiny_checkpoint, tiny_model

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.errors import CheckpointError, ModelError
from birdbone.models.writing.folder import write_model
from birdbone.reports.description import inspection_report
from birdbone.reports.inspection import BlockLinear, done_to, inspect_model


def saved(folder: Path, checkpoint: Checkpoint, **config: Any) -> Path:
    folder.mkdir()
    write_model(checkpoint.evolve(config=config), folder, max_shard_bytes=1 << 30)
    return folder


def quantized(checkpoint: Checkpoint) -> Checkpoint:
    name = "model.layers.1.mlp.up_proj.weight"
    weight = checkpoint.tensors[name]
    scales = weight.abs().amax(1, keepdim=True) / 7
    codes = (weight / scales).round().clamp(-8, 7).char()
    return checkpoint.evolve({name: Quantized(codes, scales, bits=4)})


def read(renderable: object) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def gguf_file(path: Path) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(128)
    writer.add_tensor("token_embd.weight", np.zeros((128, 32), np.float32))
    writer.add_tensor("output_norm.weight", np.zeros(32, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "gpt2", "mixtral", "phi3", "gemma3"])
def test_parameters_and_blocks_are_those_of_the_model(arch: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(arch)
    found = inspect_model(str(saved(tmp_path / "m", checkpoint)))
    assert found.parameters == checkpoint.num_parameters
    assert found.parameters == sum(p.numel() for p in tiny_model(arch).parameters())
    assert found.num_blocks == 3
    assert found.tied is (arch not in ("llama", "mixtral", "phi3"))
    assert found.dtype == "float32"
    assert found.weight_bytes == (tmp_path / "m" / "model.safetensors").stat().st_size


def test_equal_blocks_stand_together_with_their_shapes(tmp_path: Path) -> None:
    found = inspect_model(str(saved(tmp_path / "m", tiny_checkpoint())))
    [group] = found.blocks
    assert (group.first, group.last) == (0, 2)
    assert BlockLinear("mlp.down_proj", 32, 64) in group.linears
    assert len(group.linears) == 7


def test_experts_of_one_tensor_are_counted(tmp_path: Path) -> None:
    found = inspect_model(str(saved(tmp_path / "m", tiny_checkpoint("mixtral"))))
    assert {linear.count for linear in found.blocks[0].linears} == {1, 4}


def test_a_quantised_folder_is_described_from_its_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = quantized(tiny_checkpoint())
    folder = saved(tmp_path / "m", checkpoint)

    def refused(*args: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("birdbone.checkpoints.tensors.InShard.load", refused)
    found = inspect_model(str(folder))
    assert found.parameters == checkpoint.num_parameters
    assert found.stored_bytes["int32"] == 64 * 32 // 2
    [line] = done_to(found)
    assert line == (
        "quantised: quant_method=compressed-tensors, format=pack-quantized, "
        "4 bits with one scale per row"
    )


def test_zeros_are_counted_when_asked_for_and_only_then(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    name = "model.layers.0.mlp.up_proj.weight"
    thinned = checkpoint.evolve({name: checkpoint.tensors[name] * 0})
    folder = str(saved(tmp_path / "m", thinned))
    assert inspect_model(folder).zero_share is None
    share = inspect_model(folder, zeros=True).zero_share
    assert share == pytest.approx(64 * 32 / checkpoint.num_parameters)


def test_zeros_among_codes_are_counted_too(tmp_path: Path) -> None:
    light = quantized(tiny_checkpoint())
    folder = saved(tmp_path / "m", light)
    expected = 1 - light.count_nonzero() / light.num_parameters
    assert expected > 0
    assert inspect_model(str(folder), zeros=True).zero_share == pytest.approx(expected)


def test_a_gguf_file_is_described_from_its_header(tmp_path: Path) -> None:
    found = inspect_model(str(gguf_file(tmp_path / "m.gguf")))
    assert (found.num_blocks, found.model_type) == (2, "llama")
    assert found.stored_bytes == {"F32": 128 * 32 * 4, "F16": 64}
    assert found.weight_bytes == (tmp_path / "m.gguf").stat().st_size


def test_a_damaged_gguf_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(7))
    with pytest.raises(ModelError, match=r"'m\.gguf' cannot be opened as GGUF"):
        inspect_model(str(tmp_path / "m.gguf"))


def test_what_birdbone_did_is_told_step_by_step(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", tiny_checkpoint())
    record = {
        "birdbone": "0.1.0",
        "source": "owner/heavy",
        "steps": [{"link": "prune", "settings": {"sparsity": 0.3}}, "odd"],
    }
    (folder / "birdbone.json").write_text(json.dumps(record))
    found = inspect_model(str(folder))
    assert list(done_to(found)) == [
        "made by birdbone 0.1.0",
        "from owner/heavy",
        "prune(sparsity=0.3)",
    ]
    text = read(inspection_report(found))
    for expected in ("blocks 0 to 2, each", "64 × 32", "prune(sparsity=0.3)", "separate weights"):
        assert expected in text


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_record_is_left_out_with_a_warning(tmp_path: Path, content: str) -> None:
    folder = saved(tmp_path / "m", tiny_checkpoint())
    (folder / "birdbone.json").write_text(content)
    with pytest.warns(UserWarning, match=r"birdbone\.json .* is ignored"):
        assert inspect_model(str(folder)).provenance is None


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", tiny_checkpoint())
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no safetensors weights"):
        inspect_model(str(folder))


@pytest.mark.parametrize("content", ["", "[]", '{"hidden_size": 3}'])
def test_a_config_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json of .* (cannot be read|has no model_type)"):
        inspect_model(str(tmp_path))


def test_the_record_is_json(tmp_path: Path) -> None:
    found = inspect_model(str(saved(tmp_path / "m", tiny_checkpoint())))
    document = json.loads(json.dumps(found.as_dict()))
    assert document["num_blocks"] == 3
    assert document["blocks"][0]["linears"][0]["out_features"] == 32
    assert document["dtype"] == "float32"
