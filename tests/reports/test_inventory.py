"""Everything a source holds is in the model, carried, or named as left out, with its bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from float_folders import qwen3_moe, save_float8, save_mxfp4
from gguf import GGUFReader, GGUFWriter
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny import picture_config, random_model, tiny_checkpoint, tiny_model, tiny_tokenizer
from tiny_folders import for_bitsandbytes, quantized, written
from tiny_gguf import gguf_checkpoint, split_gguf

from birdbone.checkpoints import LeftOut
from birdbone.errors import ModelError
from birdbone.formats.gguf_writer import write_gguf
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.reports.description import inspection_report
from birdbone.reports.inspection import inspect_model


def read(renderable: object) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_a_folder_is_accounted_for_to_the_byte(tmp_path: Path) -> None:
    tiny_model("llama_tied").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["mtp.fc.weight"] = torch.ones(3)
    save_file(weights, path, {"format": "pt"})
    (tmp_path / "LICENSE").write_text("Apache")
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(7))
    found = inspect_model(str(tmp_path)).contents
    assert found.model_bytes == tiny_checkpoint("llama_tied").num_bytes
    assert found.duplicate_bytes == weights["lm_head.weight"].nbytes
    assert found.unused == {"mtp.fc.weight": 12}
    assert found.carried["LICENSE"] == 6
    assert found.carried["tokenizer.json"] == (tmp_path / "tokenizer.json").stat().st_size
    [left_out] = found.left_out
    assert left_out == LeftOut("pytorch_model.bin", 7, "weights in a file that is not read")
    tensors = sum(tensor.nbytes for tensor in weights.values())
    assert found.model_bytes + found.duplicate_bytes + 12 == tensors
    text = read(inspection_report(inspect_model(str(tmp_path))))
    for expected in (
        f"in the model     {found.model_bytes:,} bytes",
        "stored twice     16,384 bytes of tied weights",
        "unused, carried  1 tensors (12 bytes) without a parameter: mtp",
        "files carried    LICENSE, generation_config.json, tokenizer.json",
        "left out         pytorch_model.bin (7 bytes): weights in a file that is not read",
    ):
        assert expected in text


@pytest.mark.parametrize("arch", ["llama", "mixtral"])
def test_codes_and_scales_count_as_the_model(arch: str, tmp_path: Path) -> None:
    folder = written(quantized(tiny_checkpoint(arch)), tmp_path / "light")
    found = inspect_model(str(folder))
    tensors = load_file(folder / "model.safetensors").values()
    assert found.contents.model_bytes == sum(tensor.nbytes for tensor in tensors)
    assert found.contents.unused == {}
    document = json.loads(json.dumps(found.as_dict()))
    assert document["contents"]["model_bytes"] == found.contents.model_bytes


def with_other_tensors(folder: Path) -> Path:
    """A dense folder with a head for multi-token prediction and a file that is not read."""
    tiny_model("llama_tied").save_pretrained(folder)
    weights = load_file(folder / "model.safetensors") | {"mtp.fc.weight": torch.ones(3)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "pytorch_model.bin").write_bytes(bytes(7))
    return folder


def with_an_adapter(folder: Path) -> Path:
    """Packed weights with the low-rank correction that quantize(rank=…) writes beside them."""
    written(quantized(tiny_checkpoint()), folder)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    save_file({"A": torch.ones(2)}, folder / "adapter" / "adapter_model.safetensors")
    return folder


def with_a_picture_tower(folder: Path) -> Path:
    """A wrapper whose text part alone takes text, with the files of its processor."""
    random_model(picture_config()).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text("{}")
    return folder


def in_parts(folder: Path) -> Path:
    """A GGUF model in three files."""
    folder.mkdir()
    whole = write_gguf(gguf_checkpoint(), folder.parent / "whole.gguf", kind="q8_0").path
    split_gguf(whole, folder)
    return folder


SOURCES: dict[str, Callable[[Path], Path]] = {
    "dense": lambda folder: written(tiny_checkpoint(), folder),
    "other tensors": with_other_tensors,
    "wrapper": with_a_picture_tower,
    "packed": lambda folder: written(quantized(tiny_checkpoint("mixtral")), folder),
    "packed with an adapter": with_an_adapter,
    "bitsandbytes": lambda folder: written(
        for_bitsandbytes(tiny_checkpoint(hidden_size=64), "nf4"), folder
    ),
    "float8": lambda folder: save_float8(folder, qwen3_moe()),
    "mxfp4": save_mxfp4,
    "gguf": lambda folder: write_gguf(gguf_checkpoint(), folder, kind="q8_0").path,
    "gguf in parts": in_parts,
}
"""What models come as, by the kind."""


@pytest.mark.filterwarnings("ignore:.*(for which .* has no parameters|adapter beside its weights)")
@pytest.mark.parametrize("kind", SOURCES)
def test_inspect_says_of_any_source_what_load_makes_of_it(kind: str, tmp_path: Path) -> None:
    if kind == "bitsandbytes":
        pytest.importorskip("bitsandbytes")
    place = SOURCES[kind](tmp_path / ("model.gguf" if kind == "gguf" else "source"))
    found, opened = inspect_model(str(place)), open_checkpoint(find_model(str(place)))
    contents = found.contents
    assert contents.loaded_bytes == opened.num_bytes - opened.unused_bytes
    assert contents.unused == {name: ref.num_bytes for name, ref in opened.unused.items()}
    assert contents.left_out == opened.left_out
    paths = [place] if place.is_file() else place.iterdir()
    weights = [each for each in paths if each.suffix in (".safetensors", ".gguf")]
    assert found.weight_bytes == sum(each.stat().st_size for each in weights)
    tensors = {each.name for each in contents.left_out if (place / each.name).exists() is False}
    lost = sum(each.num_bytes for each in contents.left_out if each.name in tensors)
    counted = contents.model_bytes + contents.duplicate_bytes + sum(contents.unused.values())
    assert counted + lost == sum(found.stored_bytes.values())
    from_header = ("tokenizer", "licence and origin") if "gguf" in kind else ()
    assert contents.from_header == from_header
    if not from_header:
        assert contents.carried == {name: len(data) for name, data in opened.files.items()}
    text = " ".join(read(inspection_report(found)).split())
    assert f"once loaded {contents.loaded_bytes:,} bytes" in text
    assert ("quantised weights are read as" in text) == (contents.codes is not None)


def test_an_adapter_alone_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    save_file({"A": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"adapter.*merge"):
        inspect_model(str(tmp_path))


def test_two_sets_of_weight_files_are_told_apart(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, max_shard_size="40KB")
    save_file({"odd": torch.ones(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    found = inspect_model(str(tmp_path)).contents
    assert found.chosen is not None
    assert "the shards were used" in found.chosen
    assert found.model_bytes == tiny_checkpoint().num_bytes


def with_another_tensor(path: Path, target: Path) -> None:
    """A copy of a GGUF file with a layer beyond the count that its keys state."""
    reader = GGUFReader(path)
    writer = GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            kind = field.types[0]
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), kind, inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data.copy(), raw_dtype=tensor.tensor_type)
    writer.add_tensor("blk.3.nextn.eh_proj.weight", torch.ones(8, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_tensor_that_transformers_does_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    plain = write_gguf(gguf_checkpoint(), tmp_path / "plain.gguf", kind="f32").path
    with_another_tensor(plain, tmp_path / "m" / "model.gguf")
    (tmp_path / "m" / "LICENSE").write_text("Apache")
    found = inspect_model(str(tmp_path / "m")).contents
    assert found.left_out[0].name == "blk.3.nextn.eh_proj.weight"
    assert found.left_out[0].num_bytes == 8 * 32 * 4
    assert found.model_bytes == inspect_model(str(plain)).contents.model_bytes
    assert found.carried == {"LICENSE": 6}
    expected = r"'m' holds 1 tensors \(1,024 bytes\) that transformers does not read \(blk\.3"
    with pytest.warns(UserWarning, match=expected):
        opened = open_checkpoint(find_model(str(tmp_path / "m")))
    assert opened.left_out == found.left_out


@pytest.mark.parametrize("variant", ["llama", "qwen3", "gemma3", "phi3", "gpt2"])
def test_a_gguf_file_of_ours_is_in_the_model_as_a_whole(variant: str, tmp_path: Path) -> None:
    path = write_gguf(gguf_checkpoint(variant), tmp_path / "model.gguf", kind="f16").path
    assert inspect_model(str(path)).contents.left_out == ()
