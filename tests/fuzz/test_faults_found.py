"""What once gave a traceback, took all memory, or would have: each is a refusal that says why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz.sandbox import Sandbox
from safetensors.torch import load_file, save_file
from tiny import tiny_checkpoint
from tiny_folders import quantized, written
from tiny_gguf import gguf_checkpoint

from birdbone.checkpoints.manifest import decode_manifest, encode_manifest
from birdbone.errors import ModelError
from birdbone.formats.gguf_writer import write_gguf
from birdbone.journal import Journal
from birdbone.models.reading.tokenizer import load_tokenizer

EVERY_STEP = "links: [load, calibrate: {length: 8, windows: 2, healing_windows: 1}, profile, score]"


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path / "sandbox", "faults found")


@pytest.fixture
def model(sandbox: Sandbox) -> Path:
    return written(tiny_checkpoint(), sandbox.given / "model")


def refused(sandbox: Sandbox, *args: object, says: str) -> None:
    ending = sandbox.attempt(*args)
    assert ending.exit_code == 1
    assert says in ending.stderr


def reconfigured(model: Path, **changes: Any) -> Path:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return model


def opened(sandbox: Sandbox, model: Path, *more: object, links: str = "links: [load]") -> Any:
    recipe = sandbox.given / "recipe.yaml"
    recipe.write_text(links)
    return sandbox.attempt("run", "--recipe", recipe, "--model", model, "--quiet", *more)


@pytest.mark.parametrize("command", ["inspect", "log", "gc"])
@pytest.mark.parametrize(
    ("name", "says"), [("x" * 5000, "File name too long"), ("~no-such-user/x", "no")]
)
def test_names_that_are_no_paths(sandbox: Sandbox, command: str, name: str, says: str) -> None:
    refused(sandbox, command, name, says=says)


@pytest.mark.parametrize("name", ["a\\0b", "\\ud800"])
def test_an_output_that_can_have_no_such_name(sandbox: Sandbox, name: str) -> None:
    recipe = sandbox.given / "recipe.yaml"
    recipe.write_text(f'chain: one-shot\nset: {{save.path: "{name}"}}\n')
    refused(sandbox, "run", "--recipe", recipe, "--model", "m", says="error: ")


def test_a_kind_of_model_that_is_no_word(sandbox: Sandbox, model: Path) -> None:
    reconfigured(model, model_type=["llama"], auto_map={"AutoConfig": "configuration_evil.Evil"})
    refused(sandbox, "inspect", model, says="has no model_type")
    assert "has no model_type" in opened(sandbox, model).stderr


@pytest.mark.parametrize("name", ["heal", "prune", "quantize", "save: {path: out}"])
def test_a_recipe_that_begins_in_the_middle(sandbox: Sandbox, model: Path, name: str) -> None:
    """Looked at before it runs, too."""
    ending = opened(sandbox, model, links=f"links: [{name}]")
    assert ending.exit_code == 1
    assert "which no earlier link provides" in ending.stderr


def test_a_config_nested_too_deep_to_read(sandbox: Sandbox, model: Path) -> None:
    (model / "config.json").write_text('{"a":' * 50_000)
    assert "config.json of 'model' cannot be read" in opened(sandbox, model).stderr


@pytest.mark.parametrize("command", ["inspect", "load"])
@pytest.mark.parametrize(
    ("layers", "more"), [(9999, "of a model of 30 tensors"), (10**9, "more than any model has")]
)
def test_more_layers_than_tensors(
    sandbox: Sandbox, model: Path, command: str, layers: int, more: str
) -> None:
    reconfigured(model, num_hidden_layers=layers)
    ending = opened(sandbox, model) if command == "load" else sandbox.attempt("inspect", model)
    assert f"it asks for {layers} layers" in ending.stderr
    assert more in ending.stderr


@pytest.mark.parametrize("command", ["inspect", "load"])
def test_more_layers_than_memory_has_room_for_in_a_list(sandbox: Sandbox, command: str) -> None:
    """Of some architectures transformers lists what every layer is as it reads the config."""
    folder = written(tiny_checkpoint("gemma3"), sandbox.given / "layered")
    reconfigured(folder, num_hidden_layers=2**63, layer_types=None)
    ending = opened(sandbox, folder) if command == "load" else sandbox.attempt(command, folder)
    assert ending.exit_code == 1
    assert str(2**63) in ending.stderr


@pytest.mark.parametrize(("kind", "num_tensors"), [("llama", 30), ("gemma3", 41)])
def test_more_layers_than_tensors_in_a_gguf_file(
    sandbox: Sandbox, kind: str, num_tensors: int
) -> None:
    path = write_gguf(gguf_checkpoint(kind), sandbox.given / "model.gguf", kind="f32").path
    name = f"{kind}.block_count"
    content = path.read_bytes()
    place = content.index(name.encode()) + len(name) + 4
    path.write_bytes(content[:place] + (10**9).to_bytes(4, "little") + content[place + 4 :])
    says = f"{name} is 1000000000, of {num_tensors} tensors"
    refused(sandbox, "inspect", path, says=says)
    assert says in opened(sandbox, path).stderr


@pytest.mark.parametrize("command", ["inspect", "load"])
def test_a_list_in_a_gguf_file_that_is_longer_than_the_file(sandbox: Sandbox, command: str) -> None:
    """The gguf package makes entries of what is not there until there is no more memory."""
    path = write_gguf(gguf_checkpoint("llama"), sandbox.given / "model.gguf", kind="f32").path
    name = b"general.architecture"
    content = path.read_bytes()
    place = content.index(name) + len(name)
    # A list now, of as many entries as the letters of "llama" read as a number.
    path.write_bytes(content[:place] + (9).to_bytes(4, "little") + content[place + 4 :])
    ending = opened(sandbox, path) if command == "load" else sandbox.attempt(command, path)
    assert "it ends within its head" in ending.stderr


def test_sizes_that_no_memory_would_hold(sandbox: Sandbox, model: Path) -> None:
    """A run is looked at before it begins, on blocks as large as the config says."""
    reconfigured(model, intermediate_size=10**6)
    assert "parameters, more than weight files of" in opened(sandbox, model).stderr


def test_codes_whose_shape_has_no_dimensions(sandbox: Sandbox) -> None:
    folder = written(quantized(tiny_checkpoint()), sandbox.given / "packed")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("weight_shape"))
    save_file({**weights, name: torch.zeros(0, dtype=torch.int64)}, folder / "model.safetensors")
    assert "is recorded with shape []" in opened(sandbox, folder).stderr


def test_a_tokenizer_that_makes_its_library_panic(sandbox: Sandbox, model: Path) -> None:
    """A prefix for inner pieces that is longer than the pieces: they are cut beyond their end."""
    path = model / "tokenizer.json"
    found = json.loads(path.read_text())
    found["model"]["continuing_subword_prefix"] = "x" * 5000
    path.write_text(json.dumps(found))
    text = sandbox.given / "text.txt"
    text.write_text("\n\n".join(f"the {place} of them all" for place in range(200)))
    ending = opened(sandbox, model, "--data", text, links=EVERY_STEP)
    assert "'model' has no tokenizer that can be read" in ending.stderr


@pytest.mark.parametrize(
    "steps",
    [
        5,
        [5],
        [{"link": "wave"}],
        [{"link": "wave", "settings": {}, "metrics": {"wave": 1, "kept": True}}],
    ],
)
def test_a_record_of_waves_that_is_none(sandbox: Sandbox, model: Path, steps: Any) -> None:
    (model / "birdbone.json").write_text(json.dumps({"birdbone": "1", "steps": steps}))
    out = sandbox.allowed / "curve.svg"
    refused(sandbox, "plot", model, "--out", out, says="the steps are not those of a run")


def test_text_that_stdout_has_no_bytes_for(sandbox: Sandbox, model: Path) -> None:
    reconfigured(model, quantization_config={"quant_method": "\ud800"})
    ending = sandbox.attempt("inspect", model, "--json")
    assert ending.exit_code == 0
    assert json.loads(ending.stdout)["quantization"] == {"quant_method": "\ud800"}


@pytest.fixture
def run_folder(sandbox: Sandbox, model: Path) -> Path:
    text = sandbox.given / "text.txt"
    text.write_text("\n\n".join(f"the {n} of them all and the other {n}" for n in range(400)))
    folder = sandbox.allowed / "run"
    ending = opened(sandbox, model, "--data", text, "--run", folder, links=EVERY_STEP)
    assert ending.exit_code == 0, ending.stderr
    return folder


def resealed(folder: Path, link: str, change: Mapping[str, Any]) -> Path:
    """An outcome with something in it exchanged, under a checksum that fits again."""
    (kept,) = [each for each in Journal(folder).steps() if each.step.link == link]
    path = Journal(folder).outcome_path(kept.key)
    path.write_bytes(encode_manifest({**decode_manifest(path.read_bytes()), **change}))
    return path


@pytest.mark.parametrize(
    "change", [{"number": None}, {"made_from": 3}, {"steps": [5]}, {"added": 1}]
)
@pytest.mark.parametrize("command", ["log", "gc"])
def test_an_outcome_of_another_shape(
    sandbox: Sandbox, run_folder: Path, command: str, change: Mapping[str, Any]
) -> None:
    path = resealed(run_folder, "profile", change)
    refused(sandbox, command, run_folder, says=f"{path} is damaged")


@pytest.mark.parametrize("tree", [{}, {"map": 5}, {"fields": 5}, {"tensor": 5}])
def test_an_export_of_what_is_no_record(sandbox: Sandbox, run_folder: Path, tree: Any) -> None:
    resealed(run_folder, "profile", {"added": [["profile", tree]]})
    export = ("log", run_folder, "--export", "3", "--out", sandbox.out)
    refused(sandbox, *export, says="error: ")
    assert not sandbox.out.exists()


def test_a_kept_record_whose_fields_are_of_other_kinds(
    sandbox: Sandbox, model: Path, run_folder: Path
) -> None:
    scores = {"method": "wanda", "linears": 5, "blocks": {"tuple": []}, "weights": {"map": []}}
    tree = {"record": "birdbone.contexts.scores.Scores", "fields": scores}
    path = resealed(run_folder, "score", {"added": [["scores", tree]]})
    text = sandbox.given / "text.txt"
    ending = opened(sandbox, model, "--data", text, "--run", run_folder, links=EVERY_STEP)
    assert ending.exit_code == 0
    assert "score runs again" in ending.stderr
    assert path.exists()


def test_tokenizer_settings_that_fail_only_in_use() -> None:
    checkpoint = tiny_checkpoint()
    name = "tokenizer_config.json"
    settings = {**json.loads(checkpoint.files[name]), "model_max_length": [[]]}
    files = {**checkpoint.files, name: json.dumps(settings).encode()}
    with pytest.raises(ModelError, match=r"no tokenizer that can be read .*not supported between"):
        load_tokenizer(replace(checkpoint, files=files))
