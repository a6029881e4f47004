"""What the user typed is found, or refused with the mend."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from birdbone.errors import ModelError
from birdbone.models.reading.sources import Source, find_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
HUB_WANTED = [
    "config.json",
    "model.safetensors",
    "LICENSE",
    "NOTICE",
    "additional_chat_templates/tool_use.jinja",
    "processor_config.json",
    "tekken.json",
    "spiece.model",
    "qwen.tiktoken",
]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with one GGUF file, which breaks when imported."""
    folder = tmp_path / "tiny_gguf_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "small.Q4_1.gguf").write_bytes(b"GGUF and more")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_folder_is_called_by_its_name_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert find_model(str(tmp_path)) == Source(tmp_path.name, tmp_path)


def test_the_folder_one_stands_in_has_a_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert find_model(".").label == tmp_path.name


def test_a_gguf_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF and more")
    found = find_model(str(tmp_path / "model.gguf"))
    assert found == Source("model.gguf", tmp_path, "model.gguf")


def test_a_file_with_the_wrong_magic_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"<html>")
    with pytest.raises(ModelError, match=r"'model\.gguf' is not a GGUF file: .* fetch"):
        find_model(str(tmp_path / "model.gguf"))


def test_any_other_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"'model\.bin' is not a \.gguf file"):
        find_model(str(tmp_path / "model.bin"))


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json, so it is not a model$"):
        find_model(str(tmp_path))


def test_a_folder_of_one_gguf_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "some.gguf").write_bytes(b"GGUF and more")
    assert find_model(str(tmp_path)) == Source(tmp_path.name, tmp_path, "some.gguf")


def test_a_folder_of_gguf_files_names_one(tmp_path: Path) -> None:
    for name in ("some.gguf", "some-other.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(
        ModelError, match=r"2 GGUF models; give one of their files: some-other\.gguf, some\.gguf$"
    ):
        find_model(str(tmp_path))


@pytest.mark.parametrize("name", ["./absent", "~/absent-model", "absent.gguf", "absent", "a/b/c"])
def test_what_can_only_be_local_is_not_asked_of_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(ModelError, match=r"not found: .* models on the hub are named owner/name"):
        find_model(name)


def test_a_package_is_looked_into_but_not_imported(package: Path) -> None:
    found = find_model("package:tiny_gguf_package/small.Q4_1.gguf")
    assert found == Source("tiny_gguf_package/small.Q4_1.gguf", package, "small.Q4_1.gguf")
    assert "tiny_gguf_package" not in sys.modules


def test_a_file_the_package_lacks_names_the_nearest(package: Path) -> None:
    expected = r"holds no 'small\.Q4_0\.gguf'; did you mean 'small\.Q4_1\.gguf'\?"
    with pytest.raises(ModelError, match=expected):
        find_model("package:tiny_gguf_package/small.Q4_0.gguf")


def test_a_package_that_is_not_there(package: Path) -> None:
    with pytest.raises(ModelError, match="package 'absent_package' is not installed; pip install"):
        find_model("package:absent_package/small.gguf")


@pytest.mark.parametrize(
    "name",
    [
        "package:tiny_gguf_package",
        "package:tiny_gguf_package/",
        "package:tiny_gguf_package/../small.gguf",
        "package:tiny.package/small.gguf",
        "package:/small.gguf",
    ],
)
def test_a_package_name_of_another_form_is_refused(name: str, package: Path) -> None:
    with pytest.raises(ModelError, match="is not of the form package:NAME/FILE"):
        find_model(name)


def test_a_hub_id_is_downloaded_without_pickles_or_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    asked: dict[str, object] = {}

    def download(name: str, **settings: object) -> str:
        asked.update(settings, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_model("owner/name", revision="v1") == Source("owner/name", tmp_path)
    assert (asked["name"], asked["revision"]) == ("owner/name", "v1")
    kept = huggingface_hub.utils.filter_repo_objects(
        [
            *HUB_WANTED,
            "pytorch_model.bin",
            "consolidated.safetensors",
            "onnx/config.json",
            "onnx/model.onnx_data",
            "original/params.json",
            "vision/model.safetensors",
            "model.Q4_K.gguf",
            "tf_model.h5",
        ],
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(kept) == HUB_WANTED


def test_of_a_hub_id_only_the_description_can_be_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    asked: dict[str, object] = {}

    def download(name: str, **settings: object) -> str:
        asked.update(settings)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    expected = Source("owner/name", tmp_path, has_weights=False)
    assert find_model("owner/name", weights=False) == expected
    kept = huggingface_hub.utils.filter_repo_objects(
        ["config.json", "model.safetensors", "model.safetensors.index.json", "model.py"],
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(kept) == ["config.json", "model.py"]


def test_a_hub_that_does_not_answer_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no connection\nand a long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    expected = (
        "^model 'owner/name' is not a local folder .* downloaded from the hub: no connection$"
    )
    with pytest.raises(ModelError, match=expected):
        find_model("owner/name")


def test_offline_a_model_that_was_never_fetched_is_refused() -> None:
    with pytest.raises(
        ModelError, match="'owner/never-fetched' is not a local folder and cannot be"
    ):
        find_model("owner/never-fetched")


def test_a_hub_id_of_bad_form_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'owner/na\*me' is not a local folder and cannot be"):
        find_model("owner/na*me")


def test_an_adapter_is_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    expected = r"adapter of 'owner/base' .*not a whole model; merge it with PEFT first: .*merge_and"
    with pytest.raises(ModelError, match=expected):
        find_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=expected):
        find_model(str(tmp_path))


def test_an_adapter_that_names_no_base_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("[")
    with pytest.raises(ModelError, match="adapter of a base model it does not name"):
        find_model(str(tmp_path))


def test_a_whole_model_with_an_adapter_beside_it_is_a_model(tmp_path: Path) -> None:
    for name in ("config.json", "adapter_config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    assert find_model(str(tmp_path)).folder == tmp_path


def test_links_to_files_that_are_gone_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to(tmp_path / "blobs" / "a")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / "b")
    with pytest.raises(
        ModelError,
        match=r"incomplete: config\.json and 1 other files are links .* download the model",
    ):
        find_model(str(tmp_path))


def test_a_dangling_link_to_what_is_not_read_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").symlink_to(tmp_path / "gone")
    assert find_model(str(tmp_path)).folder == tmp_path


def test_a_gguf_file_that_is_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(tmp_path / "gone")
    for named in (tmp_path, tmp_path / "model.gguf"):
        with pytest.raises(ModelError, match=r"model\.gguf' is a link to files that do not exist"):
            find_model(str(named))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_is_no_file(name: str, tmp_path: Path) -> None:
    for each in ("config.json", "model.safetensors"):
        (tmp_path / each).write_text("{}")
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(ModelError, match=f"incomplete: {re.escape(name)} .*; run git lfs pull"):
        find_model(str(tmp_path))


def test_a_gguf_file_that_is_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text(POINTER)
    with pytest.raises(ModelError, match=r"'model\.gguf' is only the address"):
        find_model(str(tmp_path / "model.gguf"))


def test_a_config_alone_serves_where_no_weights_are_needed(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text("{}")
    path = str(tmp_path / "llama" / "config.json")
    assert find_model(path, weights=False) == Source("llama", tmp_path / "llama", has_weights=False)
    with pytest.raises(ModelError, match=r"is a config without weights, which --dry-run alone"):
        find_model(path)
