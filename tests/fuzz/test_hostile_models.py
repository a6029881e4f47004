"""Folders that claim to be models: configs, tokenizers, weight headers, quantised weights, records.

Each is looked at by the commands that read one, and opened as a run opens it.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz.hostile import damaged, examples, flipped, hostile_json, junk, numbers
from fuzz.sandbox import CODE, CODE_FILES, Sandbox
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from tiny import tiny_checkpoint, tiny_windows
from tiny_folders import for_bitsandbytes, quantized, written

from birdbone.errors import ProofError
from birdbone.models.evaluation import proof
from birdbone.models.evaluation.record import make_record
from birdbone.reports.provenance import provenance

ARCHITECTURES = ("llama_tied", "gpt2", "gemma3", "mixtral", "phi3", "gpt_oss", "falcon", "opt")
CONFIG_KEYS = (
    "architectures",
    "attn_implementation",
    "auto_map",
    "dtype",
    "head_dim",
    "layer_types",
    "quantization_config",
    "rope_parameters",
    "rope_scaling",
    "sliding_window",
    "text_config",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "vision_config",
)
EVIL = {
    "AutoConfig": "configuration_evil.Evil",
    "AutoModelForCausalLM": "modeling_evil.Evil",
    "AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"],
}
RECIPE = "links: [load]\n"
WITH_TEXT = (
    "links: [load, calibrate: {length: 8, windows: 2, healing_windows: 1, heldout_windows: 1}]\n"
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders with nothing wrong in them, by what they are."""
    root = tmp_path_factory.mktemp("sound")
    made = {arch: written(tiny_checkpoint(arch), root / arch) for arch in ARCHITECTURES}
    plain = tiny_checkpoint("llama")
    made["packed"] = written(quantized(plain), root / "packed")
    wide = tiny_checkpoint("llama", hidden_size=64, head_dim=16)
    made["nf4"] = written(for_bitsandbytes(wide, "nf4"), root / "nf4")
    made["llm.int8"] = written(for_bitsandbytes(wide, "llm.int8"), root / "llm.int8")
    made["shards"] = written(plain, root / "shards", max_shard_bytes=30_000)
    return made


WAVE: dict[str, Any] = {
    "link": "wave",
    "settings": {"share": 0.1, "healing": 1},
    "seconds": 2.0,
    "peak_bytes": 1000,
    "metrics": {
        "wave": 1,
        "kept": True,
        "parameters": 900,
        "parameters_left": 0.9,
        "bytes": 1800,
        "bytes_left": 0.9,
        "perplexity": 9.0,
        "perplexity_error": 0.5,
        "rise": 0.1,
        "rise_error": 0.01,
        "reason": "it held",
    },
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the records that save leaves, and waves among its steps."""
    checkpoint = tiny_checkpoint()
    folder = written(checkpoint, tmp_path_factory.mktemp("saved") / "light")
    record = make_record(checkpoint, tiny_windows(2), tolerance=1e-3, announce=lambda *_: None)
    (folder / "proof.json").write_text(record.model_dump_json())
    wave = {**WAVE, "metrics": {**WAVE["metrics"], "wave": 0}}
    document = provenance(
        checkpoint=checkpoint,
        dense=checkpoint,
        history=[],
        texts={},
        figures={"light": {"weight_bytes": (folder / "model.safetensors").stat().st_size}},
        measured_on={"torch": "1.0", "text": "tiny words"},
        files={path.name: path for path in folder.iterdir()},
    )
    (folder / "birdbone.json").write_text(json.dumps({**document, "steps": [wave, WAVE]}))
    return folder


@pytest.fixture(autouse=True, scope="module")
def _no_process(sandbox: Sandbox) -> Any:
    """A fresh process takes seconds; what comes before it and after it is looked at here."""
    with pytest.MonkeyPatch.context() as patch:

        async def none(*_: object, **__: object) -> None:
            raise ProofError("no process in this test")

        patch.setattr(proof, "run_alone", none)
        patch.setenv("MPLCONFIGDIR", str(sandbox.aside))  # where matplotlib keeps what it finds
        importlib.import_module("matplotlib.font_manager")  # starts a program that lists fonts
        yield


def copied(sandbox: Sandbox, sound: Path) -> Path:
    """A private copy, with Python beside it that nothing may run."""
    folder = sandbox.given / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    for name in CODE_FILES:
        (folder / name).write_text(CODE)
    return folder


def looked_at(sandbox: Sandbox, folder: Path, command: str) -> None:
    """One of the commands that read a model."""
    if command in ("load", "calibrate"):
        recipe = sandbox.given / "recipe.yaml"
        recipe.write_text(RECIPE if command == "load" else WITH_TEXT)
        text = sandbox.given / "text"
        text.mkdir(exist_ok=True)
        for place in range(12):
            (text / f"{place}.txt").write_text(
                f"the {place} of them all and the other {place} " * 4
            )
        words = ["--data", text] if command == "calibrate" else []
        sandbox.attempt("run", "--recipe", recipe, "--model", folder, "--quiet", *words)
    elif command == "plot":
        sandbox.attempt("plot", folder, "--out", sandbox.out.with_suffix(".svg"))
        sandbox.fresh_output()
    elif command == "diff":
        sandbox.attempt("diff", folder, folder, "--json")
    elif command == "out":
        sandbox.attempt("run", "quantize-only", "--model", "./none", "--out", folder, "--quiet")
    else:
        sandbox.attempt(*command.split(), folder)


LOOKS = st.sampled_from(["inspect", "inspect --json", "load", "load", "diff", "prove"])


@given(data=st.data(), arch=st.sampled_from(ARCHITECTURES), command=LOOKS)
@examples(0.3)
def test_configs(
    sandbox: Sandbox, sound: Mapping[str, Path], data: st.DataObject, arch: str, command: str
) -> None:
    folder = copied(sandbox, sound[arch])
    config = json.loads((folder / "config.json").read_text())
    if data.draw(st.booleans(), label="brings code"):
        config["auto_map"] = EVIL
        config["model_type"] = data.draw(st.sampled_from(["evil", config["model_type"]]))
    content = data.draw(hostile_json(config, CONFIG_KEYS))
    (folder / "config.json").write_bytes(content)
    looked_at(sandbox, folder, command)


@given(data=st.data(), arch=st.sampled_from(ARCHITECTURES), command=LOOKS)
@examples(0.1)
def test_sizes_in_configs(
    sandbox: Sandbox, sound: Mapping[str, Path], data: st.DataObject, arch: str, command: str
) -> None:
    folder = copied(sandbox, sound[arch])
    config = json.loads((folder / "config.json").read_text())
    sizes = [name for name, value in config.items() if type(value) is int]
    for name in data.draw(st.lists(st.sampled_from(sizes), min_size=1, max_size=2)):
        config[name] = data.draw(numbers)
    (folder / "config.json").write_text(json.dumps(config))
    looked_at(sandbox, folder, command)


@given(
    data=st.data(),
    name=st.sampled_from(["tokenizer.json", "tokenizer_config.json", "generation_config.json"]),
)
@examples(0.1)
def test_tokenizers(
    sandbox: Sandbox, sound: Mapping[str, Path], data: st.DataObject, name: str
) -> None:
    folder = copied(sandbox, sound["llama_tied"])
    found = json.loads((folder / name).read_text())
    if name == "tokenizer_config.json" and data.draw(st.booleans(), label="brings code"):
        found["auto_map"] = EVIL
    (folder / name).write_bytes(data.draw(hostile_json(found, ["auto_map", "chat_template"])))
    looked_at(sandbox, folder, "calibrate")


@given(data=st.data(), command=LOOKS)
@examples(0.2)
def test_weight_headers(
    sandbox: Sandbox, sound: Mapping[str, Path], data: st.DataObject, command: str
) -> None:
    folder = copied(sandbox, sound["llama_tied"])
    weights = (folder / "model.safetensors").read_bytes()
    size = 8 + int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8:size])
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F64", "I8", "F4", "BOOL", ""]) | junk,
            "shape": st.lists(numbers, max_size=3) | junk,
            "data_offsets": st.lists(numbers, min_size=2, max_size=2) | junk,
        }
    )
    framed = st.one_of(
        damaged(header, ["__metadata__"]),
        st.fixed_dictionaries(dict.fromkeys(list(header)[1:3], entry)).map(
            lambda found: {**header, **found}
        ),
    ).map(lambda found: _framed(found, weights[size:]))
    (folder / "model.safetensors").write_bytes(data.draw(framed | flipped(weights, within=size)))
    looked_at(sandbox, folder, command)


def _framed(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data


@given(data=st.data(), command=LOOKS)
@examples(0.06)
def test_shard_indexes(
    sandbox: Sandbox, sound: Mapping[str, Path], data: st.DataObject, command: str
) -> None:
    folder = copied(sandbox, sound["shards"])
    path = folder / "model.safetensors.index.json"
    path.write_bytes(data.draw(hostile_json(json.loads(path.read_text()))))
    looked_at(sandbox, folder, command)


QUANTISED = st.sampled_from(["inspect", "load", "load as codes", "inspect --zeros"])


@given(
    data=st.data(), kind=st.sampled_from(["packed", "packed", "nf4", "llm.int8"]), command=QUANTISED
)
@examples(0.25)
def test_quantised_folders(
    sandbox: Sandbox, sound: Mapping[str, Path], data: st.DataObject, kind: str, command: str
) -> None:
    folder = copied(sandbox, sound[kind])
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if data.draw(st.booleans(), label="settings"):
        config["quantization_config"] = data.draw(
            damaged(config["quantization_config"], ["format", "ignore", "sparsity_config"])
        )
        path.write_bytes(json.dumps(config).encode("utf-8", "surrogatepass"))
    else:
        weights = load_file(folder / "model.safetensors")
        data.draw(_tensors_damaged(weights))
        (folder / "model.safetensors").write_bytes(save(weights))
    if command == "load as codes":
        recipe = sandbox.given / "recipe.yaml"
        recipe.write_text("links: [load: {dequantize: false}]\n")
        sandbox.attempt("run", "--recipe", recipe, "--model", folder, "--quiet")
    else:
        looked_at(sandbox, folder, command)


@st.composite
def _tensors_damaged(draw: st.DrawFn, weights: dict[str, torch.Tensor]) -> None:
    """One to three tensors exchanged for others, turned into other shapes and types, or gone."""
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(weights)))
        tensor = weights[name]
        shapes = [(), (0,), (1,), (1, 1), (3, 5), tuple(tensor.shape)[::-1], (*tensor.shape, 1)]
        shape = draw(st.sampled_from([*shapes, tuple(tensor.shape)]))
        dtype = draw(
            st.sampled_from([torch.int8, torch.uint8, torch.int32, torch.float32, tensor.dtype])
        )
        fill = draw(st.sampled_from([0, 1, -1, 127, 2**31 - 1, float("nan")]))
        if draw(st.booleans()):
            del weights[name]
        else:
            whole = dtype.is_floating_point or fill == fill
            weights[name] = torch.full(shape, fill if whole else 0, dtype=torch.float64).to(dtype)
        if not weights:
            weights["other"] = torch.zeros(1)


RECORD_KEYS = ("refused", "steps", "files", "figures", "measured_on", "versions", "birdbone")


@given(
    data=st.data(),
    name=st.sampled_from(["birdbone.json", "birdbone.json", "proof.json"]),
    command=st.sampled_from(["inspect", "inspect --json", "prove", "prove --json", "plot", "out"]),
)
@examples(0.25)
def test_records(
    sandbox: Sandbox, saved: Path, data: st.DataObject, name: str, command: str
) -> None:
    folder = copied(sandbox, saved)
    path = folder / name
    path.write_bytes(data.draw(hostile_json(json.loads(path.read_text()), RECORD_KEYS)))
    looked_at(sandbox, folder, command)
