"""8-bit embeddings load in plain transformers, and a tied head is stored once."""

from pathlib import Path

import pytest
import torch
from tiny import picture_config, random_model, tiny_checkpoint, tiny_tokenizer
from tiny_folders import all_weights, own_logits, plain_logits, quantized, written
from transformers import AutoModelForCausalLM

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.errors import CheckpointError, SettingError, SolverError
from birdbone.links.quantizing.embeddings import outlined_embeddings, round_embeddings
from birdbone.models.blocks.embeddings import embedding_names
from birdbone.models.evaluation import measure_folder
from birdbone.models.reading.opening import as_checkpoint, open_checkpoint
from birdbone.models.reading.sources import find_model

TIED = "model.embed_tokens.weight"


def rounded(checkpoint: Checkpoint) -> Checkpoint:
    return round_embeddings(checkpoint)[0]


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "opt", "gpt_neox", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_computes_the_same(arch: str, dtype: torch.dtype, tmp_path: Path) -> None:
    stored = {n: ref.load().to(dtype) for n, ref in tiny_checkpoint(arch).refs.items()}
    dense = tiny_checkpoint(arch).evolve(stored, config={"dtype": str(dtype)[6:]})
    checkpoint = rounded(quantized(dense))
    folder = written(checkpoint, tmp_path / "light")
    assert torch.equal(plain_logits(folder), own_logits(checkpoint))


def test_embeddings_alone_may_be_rounded(tmp_path: Path) -> None:
    checkpoint = rounded(tiny_checkpoint("gpt2"))
    folder = written(checkpoint, tmp_path / "light")
    assert torch.equal(plain_logits(folder), own_logits(checkpoint))


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    checkpoint = rounded(tiny_checkpoint("llama_tied"))
    stored = all_weights(written(checkpoint, tmp_path / "light"))
    assert stored[TIED].dtype == torch.int8
    assert "lm_head.weight" not in stored
    assert torch.equal(stored["lm_head.weight_scale"], stored[f"{TIED}_scale"])


def test_an_untied_head_has_codes_of_its_own(tmp_path: Path) -> None:
    checkpoint = rounded(tiny_checkpoint())
    assert embedding_names(checkpoint) == [TIED, "lm_head.weight"]
    stored = all_weights(written(checkpoint, tmp_path / "light"))
    assert stored["lm_head.weight"].dtype == torch.int8


@pytest.mark.parametrize("arch", ["llama", "llama_tied"])
def test_codes_survive_reading_back(arch: str, tmp_path: Path) -> None:
    checkpoint = rounded(quantized(tiny_checkpoint(arch)))
    source = find_model(str(written(checkpoint, tmp_path / "light")))
    back = open_checkpoint(source, dequantize=False)
    assert back.refs.keys() == checkpoint.refs.keys()
    assert all(back.refs[name].digest == ref.digest for name, ref in checkpoint.refs.items())


def test_the_outline_has_the_bytes_of_the_codes() -> None:
    checkpoint = tiny_checkpoint("llama_tied")
    made, outlined = rounded(checkpoint).refs[TIED], outlined_embeddings(checkpoint)[TIED]
    assert isinstance(made, Quantized)
    assert outlined.num_bytes == made.num_bytes < checkpoint.refs[TIED].num_bytes / 3


def test_rounding_twice_is_refused() -> None:
    with pytest.raises(SettingError, match=r"embed_tokens.weight' is quantised already"):
        rounded(rounded(tiny_checkpoint()))


def test_a_scaled_embedding_is_refused() -> None:
    with pytest.raises(SettingError, match=r"'tiny/gemma3' has no plain nn.Embedding"):
        rounded(tiny_checkpoint("gemma3"))


def test_the_text_part_of_a_wrapper_is_refused() -> None:
    model = random_model(picture_config())
    checkpoint = as_checkpoint(model, tiny_tokenizer())
    with pytest.raises(SettingError, match=r"is the text part of a model with other parts"):
        rounded(checkpoint)


def test_a_value_that_is_not_finite_is_named() -> None:
    checkpoint = tiny_checkpoint("llama_tied")
    broken = checkpoint.refs[TIED].load().clone()
    broken[3, 4] = torch.nan
    with pytest.raises(SolverError, match=r"tensor 'model.embed_tokens.weight'"):
        rounded(checkpoint.evolve({TIED: broken}))


def test_scales_without_codes_of_a_head_that_is_not_tied_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = written(rounded(tiny_checkpoint()), tmp_path / "light")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' has a scale but no codes"):
        open_checkpoint(find_model(str(folder)))


def test_a_tied_head_is_counted_once_after_it_was_unpacked(tmp_path: Path) -> None:
    folder = written(rounded(tiny_checkpoint("llama_tied")), tmp_path / "light")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model(torch.zeros(1, 2, dtype=torch.int64))  # unpacks the codes, each module for itself
    counted = measure_folder._count(model)["parameters"]
    assert counted == sum(ref.num_values for ref in tiny_checkpoint("llama_tied").refs.values())
