"""What lies beside a model's weights goes with them, unless it holds or describes weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_tokenizer
from tiny_folders import written
from tiny_tokenizers import byte_level

from birdbone.checkpoints import Checkpoint
from birdbone.links.saving.gguf import write_file
from birdbone.models.reading import folder_files as module
from birdbone.models.reading.folder_files import folder_files, is_licence, licence_files
from birdbone.models.reading.opening import as_checkpoint, open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.reading.tokenizer import load_tokenizer

CARRIED = [
    "LICENSE",
    "NOTICE.txt",
    "USE_POLICY.md",
    "additional_chat_templates/tool_use.jinja",
    "assets/one.png",
    "merges.txt",
    "odd name.xyz",
    "preprocessor_config.json",
    "processor_config.json",
    "spiece.model",
    "tekken.json",
    "video_preprocessor_config.json",
]
LEFT_OUT = {
    ".gitattributes": "hidden",
    "hf_quant_config.json": "describes weights",
    "model.py": "trust_remote_code",
    "model.fp16.safetensors": "not read",
    "params.json": "describes weights",
    "pytorch_model.bin": "not read",
    "training_args.bin": "not read",
}


def files_in(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(find_model(str(folder)))


def saved_model(folder: Path) -> Path:
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_every_file_is_carried_or_named_with_its_size(tmp_path: Path) -> None:
    folder = files_in(tmp_path, "config.json", "model.safetensors", *CARRIED, *LEFT_OUT)
    found = folder_files(folder, code=False, read=["model.safetensors"])
    assert found.carried == {name: name.encode() for name in CARRIED}
    assert [each.name for each in found.left_out] == sorted(LEFT_OUT)
    for each in found.left_out:
        assert LEFT_OUT[each.name] in each.why
        assert each.num_bytes == len(each.name)


def test_python_is_carried_where_it_is_trusted(tmp_path: Path) -> None:
    found = folder_files(files_in(tmp_path, "model.py"), code=True)
    assert found.carried.keys() == {"model.py"}


def test_a_folder_with_weights_is_left_out_but_for_its_licence(tmp_path: Path) -> None:
    files_in(tmp_path, "tower/model.safetensors", "tower/config.json", "tower/LICENSE")
    files_in(tmp_path, "original/params.json")
    found = folder_files(tmp_path, code=False)
    assert found.carried.keys() == {"tower/LICENSE"}
    sizes = {each.name: each.num_bytes for each in found.left_out}
    inside = len("tower/model.safetensors") + len("tower/config.json")
    assert sizes == {"original/": len("original/params.json"), "tower/": inside}


def test_a_large_file_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    found = folder_files(files_in(tmp_path, "a.json", "long name.json", "b/c.txt"), code=False)
    assert found.carried.keys() == {"a.json", "b/c.txt"}
    assert [each.name for each in found.left_out] == ["long name.json"]


def test_the_sources_card_is_carried_under_another_name(tmp_path: Path) -> None:
    files_in(tmp_path, "README.md")
    assert folder_files(tmp_path, code=False).carried == {"SOURCE_README.md": b"README.md"}
    files_in(tmp_path, "birdbone.json", "proof.json", "SOURCE_README.md")
    found = folder_files(tmp_path, code=False)
    assert found.carried == {"SOURCE_README.md": b"SOURCE_README.md"}
    assert found.left_out == ()


def test_a_link_out_of_the_folder_is_followed_only_where_the_name_is_known(tmp_path: Path) -> None:
    outside = files_in(tmp_path / "elsewhere", "secret").joinpath("secret")
    folder = files_in(tmp_path / "model", "config.json")
    for name in ("notes.txt", "tokenizer.json"):
        (folder / name).symlink_to(outside)
    found = folder_files(folder, code=False)
    assert found.carried == {"tokenizer.json": b"secret"}
    assert [each.name for each in found.left_out] == ["notes.txt"]


def test_the_hubs_cache_is_made_of_links(tmp_path: Path) -> None:
    files_in(tmp_path / "blobs", "abc")
    folder = tmp_path / "snapshots" / "revision"
    folder.mkdir(parents=True)
    (folder / "notes.txt").symlink_to(Path("../../blobs/abc"))
    assert folder_files(folder, code=False).carried == {"notes.txt": b"abc"}


def test_names_that_cannot_be_written_everywhere_are_left_out(tmp_path: Path) -> None:
    files_in(tmp_path, "back\\slash.txt", "new\nline.txt")
    found = folder_files(tmp_path, code=False)
    assert found.carried == {}
    assert [each.name for each in found.left_out] == ["back\\slash.txt", r"new\nline.txt"]


def test_licences_are_told_by_their_names(tmp_path: Path) -> None:
    files_in(tmp_path, "LICENSE", "Notice.txt", "tokenizer.json", "model.gguf")
    assert licence_files(tmp_path).keys() == {"LICENSE", "Notice.txt"}
    assert is_licence("original/LICENCE.md")
    assert not is_licence("licence/tokenizer.json")


def test_all_of_it_is_saved_again(tmp_path: Path) -> None:
    folder = files_in(saved_model(tmp_path / "m"), *CARRIED, *LEFT_OUT)
    found = opened(folder)
    again = written(found, tmp_path / "again")
    for name in CARRIED:
        assert (again / name).read_bytes() == name.encode()
    assert {each.name for each in found.left_out} == LEFT_OUT.keys()


def test_named_chat_templates_are_carried_and_read(tmp_path: Path) -> None:
    templates = {"default": "D:{{ messages }}", "tool_use": "T:{{ tools }}"}
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = templates
    tiny_model().save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    found = opened(tmp_path / "m")
    assert load_tokenizer(found).chat_template == templates
    again = opened(written(found, tmp_path / "again"))
    assert load_tokenizer(again).chat_template == templates


async def test_a_gguf_file_takes_named_templates_and_licences_along(tmp_path: Path) -> None:
    templates = {"default": "D:{{ messages }}", "tool_use": "T:{{ tools }}"}
    tokenizer = byte_level()
    tokenizer.chat_template = templates
    model = tiny_model(vocab_size=len(tokenizer))
    checkpoint = as_checkpoint(model, tokenizer)
    licensed = replace(checkpoint, files={**checkpoint.files, "LICENSE": b"Apache"})
    await write_file(licensed, tmp_path / "model.gguf", "f32")
    assert (tmp_path / "LICENSE").read_bytes() == b"Apache"
    found = opened(tmp_path)
    assert load_tokenizer(found).chat_template == templates
    assert found.files["LICENSE"] == b"Apache"
