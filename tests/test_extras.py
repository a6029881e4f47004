"""Without the extras a chain runs, and each feature that needs one names it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tiny_folders import written
from tiny_gguf import gguf_checkpoint

from birdbone.formats.gguf_writer import write_gguf

# A package and the extra that installs it.
EXTRAS = {
    "wandb": "wandb",
    "bitsandbytes": "bitsandbytes",
    "peft": "peft",
    "gguf": "gguf",
    "structlog": "structlog",
    "xllamacpp": "llama",
    "datasets": "datasets",
    "pyarrow": "parquet",
    "lm_eval": "eval",
}

PROGRAM = """
import json, sys
from pathlib import Path

place, packages = Path(sys.argv[1]), json.loads(sys.argv[2])
sys.modules.update(dict.fromkeys(packages))  # as if they were not installed

import birdbone.cli
from birdbone import Chain, run_sync
from birdbone.errors import BirdboneError
from birdbone.links import calibrate, heal, load, quantize, save, validate
from birdbone.middleware import Logging, Progress, Timing, WandbLogging
from birdbone.models.writing.folder import write_model
from birdbone.texts.parquet import parquet_rows
from birdbone.texts.sources import read_corpus

opened = load(model=str(place / "dense"))
text = calibrate(
    data=str(place / "text.txt"), elsewhere="pydoc", length=16, windows=2, healing_windows=2,
    heldout_windows=2, elsewhere_windows=1,
)
chain = Chain(opened, text, quantize(bits=8, group_size=16), validate())
chain.use(Timing())
light = run_sync(chain)["checkpoint"]
(place / "light").mkdir()
write_model(light, place / "light", max_shard_bytes=1 << 30)


def logged():
    chain = Chain(opened)
    chain.use(WandbLogging(project="x"))
    run_sync(chain)


needs = {
    "wandb": logged,
    "bitsandbytes": lambda: run_sync(Chain(opened, text, quantize(method="nf4"))),
    "peft": lambda: run_sync(Chain(opened, text, heal(method="lora"))),
    "gguf": lambda: run_sync(Chain(load(model=str(place / "model.gguf")))),
    "structlog": Logging,
    "xllamacpp": lambda: run_sync(Chain(opened, save(path=str(place / "out"), format="gguf"))),
    "datasets": lambda: read_corpus("hf:some/where"),
    "pyarrow": lambda: list(parquet_rows(place / "rows.parquet", None)),
    "lm_eval": lambda: run_sync(Chain(opened, text, validate(tasks=["sums"]))),
}
found = {}
for package in packages:
    try:
        needs[package]()
    except BirdboneError as error:
        found[package] = str(error)
(place / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extras")
    checkpoint = gguf_checkpoint("llama")
    written(checkpoint, folder / "dense")
    write_gguf(checkpoint, folder / "model.gguf", kind="f32")
    words = "the bone is thin where no load is carried and thick where it is "
    (folder / "text.txt").write_text("\n\n".join(f"{words * 6}{n}" for n in range(60)))
    (folder / "rows.parquet").write_bytes(b"PAR1")
    return folder


@pytest.fixture(scope="module")
def found(place: Path) -> Mapping[str, str]:
    """What each feature says where no extra is installed."""
    command = [sys.executable, "-c", PROGRAM, str(place), json.dumps(list(EXTRAS))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    messages: dict[str, str] = json.loads((place / "found.json").read_text())
    return messages


def test_a_chain_runs_and_its_model_is_written(place: Path, found: Mapping[str, str]) -> None:
    config = json.loads((place / "light" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"


@pytest.mark.parametrize("package", EXTRAS)
def test_a_feature_names_the_extra_it_needs(package: str, found: Mapping[str, str]) -> None:
    assert f"birdbone[{EXTRAS[package]}]" in found[package]
