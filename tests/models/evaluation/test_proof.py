"""A folder is proven, or what speaks against it is named."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_checkpoint, tiny_windows

from birdbone.checkpoints.durable import file_hash
from birdbone.errors import CheckpointError, ProofError
from birdbone.models.evaluation import proof
from birdbone.models.evaluation import run_folder as reread
from birdbone.models.evaluation.proof import Check, Proof, prove
from birdbone.models.evaluation.record import make_record
from birdbone.models.writing.folder import write_model

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as save leaves it, in what concerns the proof."""
    folder = tmp_path_factory.mktemp("saved") / "light"
    folder.mkdir()
    checkpoint = tiny_checkpoint()
    write_model(checkpoint, folder, max_shard_bytes=1 << 30)
    record = make_record(checkpoint, tiny_windows(2), tolerance=1e-3, announce=lambda *_: None)
    (folder / "proof.json").write_text(record.model_dump_json())
    (folder / "README.md").write_text("# light")
    seal(folder)
    return folder


def seal(folder: Path, **more: Any) -> None:
    """Write birdbone.json as save does, with what the files are now."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in folder.iterdir()
        if path.name != "birdbone.json"
    }
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    document = {
        "birdbone": "0.1.0",
        "figures": {"light": {"weight_bytes": size}},
        "measured_on": {"torch": "1.0", "text": "tiny words"},
        "files": files,
        **more,
    }
    (folder / "birdbone.json").write_text(json.dumps(document))


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "light"))


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading program run here; that it runs alone is tested where it is started."""

    async def run(script: Path, request: Mapping[str, Any], announce: Any) -> dict[str, Any]:
        try:
            return reread.read(dict(request))
        except Exception as error:
            raise ProofError(f"cannot open: {error}") from error

    monkeypatch.setattr(proof, "run_alone", run)


def found(proven: Proof, name: str) -> Check:
    """The check of that name; there is one."""
    (check,) = [each for each in proven.checks if each.name == name]
    return check


async def test_a_folder_as_saved_is_proven(folder: Path) -> None:
    whole = await prove(folder)
    assert whole.proven
    names = [check.name for check in whole.checks]
    assert names == ["record", "files", "size", "opens", "logits", "score"]
    assert "every checksum as recorded" in found(whole, "files").words
    assert "LlamaForCausalLM" in found(whole, "opens").words
    assert "128 logits are" in found(whole, "logits").words
    assert "30 tokens (tiny words)" in found(whole, "score").words
    assert whole.said is not None
    assert whole.saved_with == {"torch": "1.0"}
    assert whole.as_dict()["checks"][0] == {
        "name": "record",
        "holds": True,
        "found": "saved by birdbone 0.1.0",
    }


async def test_other_weights_do_not_compute_as_saved(folder: Path) -> None:
    """Checksums made to fit, as whoever exchanges weights in good faith would make them."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[DOWN] = weights[DOWN] * 1.1
    save_file(weights, path, metadata={"format": "pt"})
    seal(folder)
    spoilt = await prove(folder)
    assert [check.name for check in spoilt.failed] == ["logits", "score"]
    assert "up to 0.001 is allowed" in found(spoilt, "logits").words


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def put(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{}")


Spoil = Callable[[Path], object]
SPOILT: dict[str, tuple[Spoil, str, str]] = {
    "a bit of the weights": (
        lambda folder: flip(folder / "model.safetensors"),
        "files",
        r"model.safetensors has another checksum",
    ),
    "a byte more": (
        lambda folder: (folder / "config.json").write_text(
            (folder / "config.json").read_text() + "\n"
        ),
        "files",
        r"config.json has \d+ bytes, recorded \d+",
    ),
    "a file gone": (
        lambda folder: (folder / "generation_config.json").unlink(),
        "files",
        r"generation_config.json cannot be read \(No such file",
    ),
    "a file more": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        "files",
        r"adapter_config.json is there and was not saved",
    ),
    "a file more in a folder": (
        lambda folder: put(folder / "adapter" / "adapter_config.json"),
        "files",
        r"adapter/adapter_config.json is there and was not saved",
    ),
    "a link to another folder": (
        lambda folder: (folder / "adapter").symlink_to(folder.parent),
        "files",
        r"adapter is there and was not saved",
    ),
    "an entry that leads outside by a link": (
        lambda folder: (
            seal(folder, files={"away/secret": {"bytes": 1, "sha256": ""}}),
            (folder / "away").symlink_to(folder.parent),
        ),
        "files",
        r"'away/secret' is no entry for a file of the folder",
    ),
    "an entry that leads outside": (
        lambda folder: seal(folder, files={"../secret": {"bytes": 1, "sha256": ""}}),
        "files",
        r"'../secret' is no entry for a file of the folder",
    ),
    "another size on record": (
        lambda folder: seal(folder, figures={"light": {"weight_bytes": 5}}),
        "size",
        r"bytes on disk, recorded 5",
    ),
    "a refusal": (
        lambda folder: seal(folder, refused="it only repeats itself"),
        "accepted",
        r"refused when it was made: it only repeats itself",
    ),
    "provenance that is no JSON": (
        lambda folder: (folder / "birdbone.json").write_text("{"),
        "record",
        r"birdbone.json cannot be read",
    ),
    "provenance of somebody else": (
        lambda folder: (folder / "birdbone.json").write_text("[]"),
        "record",
        r"holds no record of birdbone's",
    ),
    "a record of another shape": (
        lambda folder: (folder / "proof.json").write_text('{"format": 1}'),
        "computes as saved",
        r"proof.json is no record: dtype Field required",
    ),
    "weights gone": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "opens",
        r"cannot open: .*no file named",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
async def test_what_speaks_against_a_folder_is_named(name: str, folder: Path) -> None:
    spoil, check, words = SPOILT[name]
    spoil(folder)
    spoilt = await prove(folder)
    assert not spoilt.proven
    assert check in [each.name for each in spoilt.failed]
    assert re.search(words, found(spoilt, check).words)


async def test_prose_may_be_written_and_hidden_files_come_with_a_download(folder: Path) -> None:
    (folder / "README.md").write_text("# light, with a word of thanks")
    (folder / "NOTES.md").write_text("more")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    (folder / ".cache").mkdir()
    assert (await prove(folder)).proven


async def test_without_our_record_it_opens_and_is_not_proven(tmp_path: Path) -> None:
    write_model(tiny_checkpoint(), tmp_path, max_shard_bytes=1 << 30)
    plain = await prove(tmp_path)
    assert not plain.proven
    assert not plain.failed
    unknown = [check.name for check in plain.checks if check.holds is None]
    assert unknown == ["record", "files", "size", "computes as saved"]
    assert found(plain, "opens").holds
    assert plain.said is not None


async def test_a_model_gone_wrong_does_not_open(tmp_path: Path) -> None:
    broken = tiny_checkpoint().evolve({DOWN: torch.full((32, 64), float("nan"))})
    write_model(broken, tmp_path, max_shard_bytes=1 << 30)
    assert "NaN or infinite" in found(await prove(tmp_path), "opens").words


async def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds a config\.json; nothing to prove"):
        await prove(tmp_path / "none")
