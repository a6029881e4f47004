"""Ten faults planted in a saved folder, modelled on accidents that happened to others.

Each is planted as a fault in saving would leave it: the checksums of the record agree with the
faulty files. `prove` or `verify` catches each of them and names the check.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_checkpoint, tiny_windows
from tiny_folders import quantized, written
from tiny_tokenizers import sentencepiece

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.errors import ProofError
from birdbone.models.evaluation import proof, run_folder
from birdbone.models.evaluation.record import make_record
from birdbone.models.evaluation.verification import verify
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.writing.publishing import PROVENANCE, files_of
from birdbone.reports.provenance import provenance

BLOCK = "model.layers.1"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading program run here; that it runs alone is tested where it is started."""

    async def run(script: Path, request: Mapping[str, Any], announce: Any) -> dict[str, Any]:
        try:
            return run_folder.read(dict(request))
        except Exception as error:
            raise ProofError(f"cannot open: {error}") from error

    monkeypatch.setattr(proof, "run_alone", run)


def seal(folder: Path, light: Checkpoint, dense: Checkpoint) -> None:
    """Write the record of the files as they are now."""
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    record = provenance(
        checkpoint=light,
        dense=dense,
        history=[Step("load", {"model": "source"}, Cost(1.0, None, "process"))],
        texts={},
        figures={"light": {"weight_bytes": size}},
        measured_on={},
        files={name: path for name, path in files_of(folder).items() if name != PROVENANCE},
    )
    (folder / PROVENANCE).write_text(json.dumps(record))


class Case:
    """A source, a folder made from it, and the way to plant a fault in it."""

    def __init__(self, tmp_path: Path, arch: str, *, packed: bool) -> None:
        self.source = written(tiny_checkpoint(arch), tmp_path / "source")
        (self.source / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
        self.dense = open_checkpoint(find_model(str(self.source)))
        self.light = quantized(self.dense) if packed else self.dense
        self.folder = written(self.light, tmp_path / "light")
        record = make_record(self.light, tiny_windows(2), tolerance=1e-3, announce=lambda *_: None)
        (self.folder / "proof.json").write_text(record.model_dump_json())
        seal(self.folder, self.light, self.dense)

    def change(self, edit: Callable[[Tensors], object]) -> None:
        """Change the tensors of the folder's weight file."""
        path = self.folder / "model.safetensors"
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    def configure(self, **more: Any) -> None:
        """Change keys of the folder's config."""
        path = self.folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def drop_a_scale(case: Case) -> None:
    case.change(lambda tensors: tensors.pop(f"{BLOCK}.mlp.up_proj.weight_scale"))


def initialise_experts(case: Case) -> None:
    def draw(tensors: Tensors) -> None:
        for name in tensors:
            if ".experts." in name:
                tensors[name] = torch.randn_like(tensors[name]) * 0.02

    case.change(draw)


def tie_the_head(case: Case) -> None:
    case.configure(tie_word_embeddings=True)
    case.change(lambda tensors: tensors.pop("lm_head.weight"))


def take_a_shard_of_another_step(case: Case) -> None:
    other = tiny_checkpoint(seed=7)
    names = [name for name in other.refs if name.startswith(BLOCK)]
    case.change(lambda tensors: tensors.update({name: other.tensors[name] for name in names}))


def take_another_tokenizer(case: Case) -> None:
    sentencepiece().save_pretrained(case.folder)


def lose_the_template(case: Case) -> None:
    (case.folder / "chat_template.jinja").unlink()


def spoil_a_layer(case: Case) -> None:
    case.change(lambda tensors: tensors[f"{BLOCK}.mlp.down_proj.weight"].fill_(torch.nan))


def reorder_groups(case: Case) -> None:
    def turn(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            if name.endswith("weight_scale") and tensor.shape[1] > 1:
                tensors[name] = tensor.flip(1).contiguous()

    case.change(turn)


def stretch_positions(case: Case) -> None:
    case.configure(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4})


def merge_an_adapter_twice(case: Case) -> None:
    name = f"{BLOCK}.self_attn.o_proj.weight"
    generator = torch.Generator().manual_seed(0)
    update = torch.randn(32, 2, generator=generator) @ torch.randn(2, 32, generator=generator)
    case.change(lambda tensors: tensors[name].add_(0.05 * update))


FAULTS: dict[str, tuple[str, bool, Callable[[Case], None], str, str]] = {
    "a scale dropped": ("llama", True, drop_a_scale, "prove", "opens"),
    "experts initialised anew": ("mixtral", False, initialise_experts, "prove", "logits"),
    "a head tied again": ("llama", False, tie_the_head, "prove", "logits"),
    "a shard of another step": ("llama", False, take_a_shard_of_another_step, "prove", "logits"),
    "another tokenizer": ("llama", False, take_another_tokenizer, "verify", "tokenizer"),
    "a template lost": ("llama", False, lose_the_template, "verify", "tokenizer"),
    "NaN in a layer": ("llama", False, spoil_a_layer, "prove", "opens"),
    "groups in another order": ("llama", True, reorder_groups, "prove", "logits"),
    "another rope scale": ("llama", False, stretch_positions, "prove", "logits"),
    "an adapter merged twice": ("llama", False, merge_an_adapter_twice, "prove", "logits"),
}


# What the failed check says of the fault, where it can name it.
NAMED = {
    "a scale dropped": "model.layers.1.mlp.up_proj.weight_scale",
    "another tokenizer": "tokenizer.json is not that of the source",
    "a template lost": "chat_template.jinja is missing",
    "NaN in a layer": "NaN or infinite",
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_planted_fault_is_caught_and_named(name: str, tmp_path: Path) -> None:
    arch, packed, plant, command, check = FAULTS[name]
    words = NAMED.get(name, "")
    case = Case(tmp_path, arch, packed=packed)
    plant(case)
    seal(case.folder, case.light, case.dense)
    if command == "prove":
        found = await proof.prove(case.folder)
    else:
        found = verify(case.folder, str(case.source))
    assert check in {each.name for each in found.failed}, found.checks
    assert words in " ".join(each.words for each in found.failed)
    assert not {"record", "files", "size"} & {each.name for each in found.failed}


@pytest.mark.parametrize(
    ("arch", "packed"), [("llama", False), ("llama", True), ("mixtral", False)]
)
async def test_without_a_fault_nothing_is_caught(arch: str, packed: bool, tmp_path: Path) -> None:
    case = Case(tmp_path, arch, packed=packed)
    assert (await proof.prove(case.folder)).proven
    assert not verify(case.folder, str(case.source)).failed
