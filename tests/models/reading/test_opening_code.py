"""Python that a model brings runs only when the user says so, and then works throughout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers.dynamic_module_utils
from safetensors.torch import save_file
from tiny import tiny_model, tiny_tokenizer, tiny_windows

from birdbone.errors import ModelError
from birdbone.models.blocks.empty_model import find_blocks
from birdbone.models.blocks.linears import find_linears
from birdbone.models.blocks.replay import capture, logits, through_blocks
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.reading.tokenizer import load_tokenizer

CODE = """
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class FinchConfig(PreTrainedConfig):
    model_type = "finch"
    num_hidden_layers = 2
    vocab_size = 128


class Wing(nn.Module):
    def __init__(self):
        super().__init__()
        self.beat = nn.Linear(8, 8)

    def forward(self, hidden_states, strength):
        return hidden_states + self.beat(hidden_states) * strength


class FinchForCausalLM(PreTrainedModel):
    config_class = FinchConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, 8)
        self.wings = nn.ModuleList([Wing(), Wing()])
        self.head = nn.Linear(8, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids, use_cache=None):
        hidden = self.embed(input_ids)
        for wing in self.wings:
            hidden = wing(hidden, torch.full((8,), 0.5))
        return CausalLMOutput(logits=self.head(hidden))
"""
AUTO_MAP = {"AutoConfig": "finch.FinchConfig", "AutoModelForCausalLM": "finch.FinchForCausalLM"}


@pytest.fixture(autouse=True)
def modules_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what transformers imports out of the user's own cache."""
    monkeypatch.setattr(
        transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.syspath_prepend(tmp_path / "modules")


@pytest.fixture
def finch(tmp_path: Path) -> Path:
    """A folder whose model only its own code can build."""
    folder = tmp_path / "finch"
    folder.mkdir()
    (folder / "finch.py").write_text(CODE)
    config = {"model_type": "finch", "auto_map": AUTO_MAP, "num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    shapes = {"embed.weight": (128, 8), "head.weight": (128, 8)}
    for place in range(2):
        shapes |= {f"wings.{place}.beat.weight": (8, 8), f"wings.{place}.beat.bias": (8,)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_code_is_refused_unless_it_is_trusted(finch: Path) -> None:
    expected = r"'finch' needs its own Python code \(auto_map .* pass trust_remote_code=True"
    with pytest.raises(ModelError, match=expected):
        open_checkpoint(find_model(str(finch)))


def test_refused_code_does_not_run(finch: Path) -> None:
    (finch / "finch.py").write_text("raise RuntimeError('ran')")
    with pytest.raises(ModelError, match="needs its own Python code"):
        open_checkpoint(find_model(str(finch)))


def test_trusted_code_works_block_by_block(finch: Path) -> None:
    checkpoint = open_checkpoint(find_model(str(finch)), trust_remote_code=True)
    assert checkpoint.files["finch.py"] == CODE.encode()
    skeleton = Skeleton(checkpoint)
    assert skeleton.path == "wings"
    assert [each.name for each in find_linears(skeleton.blocks[1], "wings.1.")] == ["wings.1.beat"]
    (batch,) = capture(skeleton, [tiny_windows().tokens])
    (hidden,) = through_blocks(skeleton, [batch])
    replayed = logits(skeleton, batch.tokens, hidden)
    with torch.no_grad():
        assert torch.equal(replayed, Skeleton(checkpoint).fill()(batch.tokens).logits)
    assert load_tokenizer(checkpoint).eos_token_id == 2


def test_equal_tensors_passed_by_place_are_kept_once(finch: Path) -> None:
    checkpoint = open_checkpoint(find_model(str(finch)), trust_remote_code=True)
    one, other = capture(Skeleton(checkpoint), [tiny_windows(seed=s).tokens for s in (0, 1)])
    assert one.calls[0].args[0] is other.calls[1].args[0]
    assert torch.equal(one.calls[0].args[0], torch.full((8,), 0.5))


def test_the_files_of_a_trusted_checkpoint_are_enough(finch: Path) -> None:
    checkpoint = open_checkpoint(find_model(str(finch)), trust_remote_code=True)
    (finch / "finch.py").unlink()
    assert find_blocks(Skeleton(checkpoint).model)[0] == "wings"


def test_trusted_code_without_a_stack_of_blocks_is_refused_by_name(finch: Path) -> None:
    checkpoint = open_checkpoint(find_model(str(finch)), trust_remote_code=True)
    longer = checkpoint.evolve(config={"num_hidden_layers": 3})
    expected = r"FinchForCausalLM has no stack .* num_hidden_layers=3, found wings \(2\)"
    with pytest.raises(ModelError, match=expected):
        Skeleton(longer)


def test_code_that_transformers_does_not_need_is_left_behind(tmp_path: Path) -> None:
    # As Phi-3 and Falcon are published: with code of their own, though transformers knows them.
    folder = tmp_path / "llama"
    tiny_model().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "absent.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(find_model(str(folder)))
    assert "auto_map" not in checkpoint.config
    assert type(Skeleton(checkpoint).model).__name__ == "LlamaForCausalLM"
