"""Upload to the hub, against a stand-in of its HTTP interface."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import Hub, standing_in
from huggingface_hub import constants

from birdbone.errors import HubError, SettingError
from birdbone.models.writing.hub_upload import Pushed, check_repo, files_to_push, push_files

REPO = "someone/light"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with standing_in() as found:
        yield found


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A saved folder with a file that is not of its record."""
    contents = {"model.safetensors": b"\x00\x01weights", "README.md": b"# light", "a/b.json": b"{}"}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    record = {"birdbone": "1", "files": {name: {} for name in contents}}
    (tmp_path / "birdbone.json").write_text(json.dumps(record))
    (tmp_path / "token.txt").write_text("secret")
    return files_to_push(tmp_path)


def pushed(hub: Hub, files: dict[str, Path], *, repo: str = REPO, **options: object) -> Pushed:
    return push_files(files, repo, endpoint=hub.url, token="hf_x", **options)  # type: ignore[arg-type]


def test_recorded_files_arrive_in_one_commit_in_a_private_repository(
    hub: Hub, files: dict[str, Path]
) -> None:
    done = pushed(hub, files)
    assert hub.repos == {REPO: True}
    assert done.private
    assert done.url.startswith(f"{hub.url}/{REPO}/commit/")
    assert hub.files == {name: path.read_bytes() for name, path in files.items()}
    assert sorted(hub.files) == ["README.md", "a/b.json", "birdbone.json", "model.safetensors"]
    assert hub.large == {"model.safetensors"}
    assert sum("/commit/" in each for each in hub.asked) == 1


def test_public_only_when_asked(hub: Hub, files: dict[str, Path]) -> None:
    hub.repos[REPO] = False
    with pytest.raises(SettingError, match="exists and is public; give --public"):
        pushed(hub, files)
    assert hub.files == {}
    assert not pushed(hub, files, public=True).private
    assert not pushed(hub, files, repo="someone/new", public=True).private
    assert hub.repos["someone/new"] is False


def test_weights_of_another_model_are_removed_and_other_files_stay(
    hub: Hub, files: dict[str, Path]
) -> None:
    hub.repos[REPO] = True
    hub.files = {
        "model-00001-of-00002.safetensors": b"old",
        "model.safetensors.index.json": b"{}",
        "notes.txt": b"mine",
        "README.md": b"old",
    }
    done = pushed(hub, files)
    assert done.removed == ("model-00001-of-00002.safetensors", "model.safetensors.index.json")
    assert "notes.txt" in hub.files
    assert hub.files["README.md"] == b"# light"
    assert done.removed[0] not in hub.files


def test_a_branch_is_created(hub: Hub, files: dict[str, Path]) -> None:
    pushed(hub, files, revision="int4")
    assert hub.branches == ["int4"]
    assert any(each.endswith("/commit/int4") for each in hub.asked)


def test_what_arrives_damaged_is_named(hub: Hub, files: dict[str, Path]) -> None:
    hub.spoils = "model.safetensors"
    with pytest.raises(HubError, match=f"'model.safetensors' in '{REPO}' differs from the file"):
        pushed(hub, files)


@pytest.mark.parametrize(("status", "fix"), [(403, "hf auth login"), (401, "HF_TOKEN")])
def test_a_refusal_names_the_status_and_the_fix(
    hub: Hub, files: dict[str, Path], status: int, fix: str
) -> None:
    hub.refuses = status
    with pytest.raises(HubError, match=rf"the hub refused '{REPO}' \({status}\).*{fix}"):
        pushed(hub, files)
    assert hub.files == {}


def test_without_a_network_or_offline_nothing_is_sent(
    hub: Hub, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        pushed(hub, files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.url = "http://127.0.0.1:1"
    with pytest.raises(HubError, match=f"'{REPO}' could not be pushed"):
        pushed(hub, files)


@pytest.mark.parametrize("name", ["a/b/c", "light model", "-light", "../light", ""])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match="write OWNER/NAME"):
        check_repo(name)
    check_repo(REPO)


def test_a_gguf_file_goes_with_its_records(tmp_path: Path) -> None:
    (tmp_path / "light.gguf").write_bytes(b"GGUF")
    records = tmp_path / "light.gguf.birdbone"
    records.mkdir()
    (records / "README.md").write_text("# light")
    listed = {"light.gguf": {}, "README.md": {}, "lost.md": {}}
    (records / "birdbone.json").write_text(json.dumps({"birdbone": "1", "files": listed}))
    found = files_to_push(tmp_path / "light.gguf")
    assert sorted(found) == ["README.md", "birdbone.json", "light.gguf"]
    (records / "birdbone.json.minisig").write_text("signature")
    assert "birdbone.json.minisig" in files_to_push(tmp_path / "light.gguf")
    assert found["README.md"] == records / "README.md"
