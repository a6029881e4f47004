"""The tokenizer of a folder, a GGUF file and the files of a checkpoint: the same, or refused."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from tiny import tiny_checkpoint, tiny_tokenizer
from tiny_folders import written
from tiny_gguf import checkpoint_with, gguf_checkpoint
from tiny_tokenizers import byte_level, sentencepiece
from transformers import PreTrainedTokenizerBase, dynamic_module_utils

from birdbone.checkpoints import Checkpoint
from birdbone.errors import ModelError
from birdbone.formats.gguf_writer import write_gguf
from birdbone.models.reading.sources import Source, find_model
from birdbone.models.reading.tokenizer import gguf_tokenizer, load_tokenizer, read_tokenizer

TEXTS = ("the thing and the other", "12 in 345", "  two  spaces\n\nnew", "ünï ✓", "")
SMALL = tiny_checkpoint(num_hidden_layers=1)


def ids(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return [tokenizer(text)["input_ids"] for text in TEXTS]


def with_files(**files: bytes) -> Checkpoint:
    """The small model with these files beside its tokenizer's."""
    return replace(SMALL, files={**SMALL.files, **files})


def test_a_checkpoint_has_the_tokenizer_it_was_made_with() -> None:
    assert ids(load_tokenizer(SMALL)) == ids(tiny_tokenizer())
    assert load_tokenizer(SMALL).special_tokens_map == tiny_tokenizer().special_tokens_map


def test_files_in_folders_come_too() -> None:
    template = b"{{ messages[0].content }}!"
    made = with_files(**{"additional_chat_templates/tool.jinja": template})
    found = load_tokenizer(made).chat_template
    assert isinstance(found, dict)
    assert found["tool"] == template.decode()


def test_a_folder_is_read_without_its_weights(tmp_path: Path) -> None:
    folder = written(SMALL, tmp_path / "light")
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"none")
    source = Source("light", folder)
    assert ids(read_tokenizer(source)) == ids(tiny_tokenizer())


def test_code_of_the_folder_needs_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder = written(SMALL, tmp_path / "light")
    (folder / "own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n"
        "class Own(PreTrainedTokenizerFast):\n    theirs = True\n"
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    source = Source("light", folder)
    with pytest.raises(
        ModelError,
        match=r"^the tokenizer of 'light' is Python code in its folder, .*; pass trust_",
    ):
        read_tokenizer(source)
    assert read_tokenizer(source, trust_remote_code=True).theirs


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.json", b'{"model": 1}'),
        ("tokenizer.json", b"\xff"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b'{"model_max_length": ["1"]}'),
    ],
)
def test_damaged_files_are_told_in_one_line(name: str, data: bytes) -> None:
    with pytest.raises(
        ModelError, match=r"^'tiny/llama' has no tokenizer that can be read \(.*weights$"
    ):
        load_tokenizer(with_files(**{name: data}))


def test_no_path_of_this_machine_is_told() -> None:
    """The files lie in a temporary folder while they are read."""
    settings = b'{"tokenizer_class": "Nobody", "auto_map": {"AutoTokenizer": ["own.Own", null]}}'
    with pytest.raises(ModelError) as caught:
        load_tokenizer(with_files(**{"tokenizer_config.json": settings, "none.py": b""}))
    assert tempfile.gettempdir() not in str(caught.value)


def test_a_model_without_a_tokenizer_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"put tokenizer\.json beside its weights$"):
        load_tokenizer(replace(SMALL, files={}))


def test_a_config_that_cannot_be_read_is_told_instead() -> None:
    broken = replace(SMALL, files={}, config={**SMALL.config, "hidden_size": "wide"})
    with pytest.raises(ModelError) as caught:
        load_tokenizer(broken)
    assert "tokenizer" not in str(caught.value)
    assert "hidden_size" in str(caught.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = gguf_checkpoint(num_hidden_layers=1)
    return write_gguf(made, tmp_path_factory.mktemp("tokenizer") / "tiny.gguf").path


def source_of(path: Path) -> Source:
    return find_model(str(path))


def test_a_gguf_file_has_the_tokenizer_it_was_written_with(whole: Path) -> None:
    found = read_tokenizer(source_of(whole))
    assert ids(found) == ids(byte_level())
    assert found.get_vocab().items() > byte_level().get_vocab().items()  # and unused rows


@pytest.mark.parametrize("rule", ["smollm", "llama-bpe", "qwen2"])
def test_text_is_split_as_the_file_says(rule: str, tmp_path: Path) -> None:
    made = checkpoint_with(byte_level(rule), num_hidden_layers=1)
    path = write_gguf(made, tmp_path / "tiny.gguf").path
    assert ids(gguf_tokenizer(source_of(path))) == ids(byte_level(rule))


def test_sentencepiece_is_left_as_transformers_reads_it(tmp_path: Path) -> None:
    made = checkpoint_with(sentencepiece(), "phi3", num_hidden_layers=1, sliding_window=None)
    path = write_gguf(made, tmp_path / "tiny.gguf").path
    found = gguf_tokenizer(source_of(path))
    assert found("the thing")["input_ids"] == sentencepiece()("the thing")["input_ids"]


def bare(path: Path, *, rule: str = "gpt-2", **keys: str) -> Path:
    """A file of a vocabulary alone."""
    writer = GGUFWriter(path, "llama")
    tokens = ["<s>", "</s>", "t", "h", "e", "th", "the", "Ġ"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, text in keys.items():
        writer.add_string(f"tokenizer.{name.replace('__', '.')}", text)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_tokens_that_transformers_adds_are_taken_out(tmp_path: Path) -> None:
    """They would have no row in the embedding."""
    found = gguf_tokenizer(Source("bare", tmp_path, bare(tmp_path / "x.gguf").name))
    assert max(found.get_vocab().values()) == 7
    assert (found.bos_token, found.eos_token) == ("<s>", "</s>")
    assert found("the", add_special_tokens=False)["input_ids"] == [6]


def test_named_chat_templates_are_kept_beside_the_default(tmp_path: Path) -> None:
    keys = {"chat_template": "plain", "chat_template__tool_use": "tools"}
    path = bare(tmp_path / "x.gguf", **keys)
    found: Any = gguf_tokenizer(Source("bare", tmp_path, path.name)).chat_template
    assert found == {"default": "plain", "tool_use": "tools"}
    path = bare(tmp_path / "y.gguf", chat_template__rag="rag")
    assert gguf_tokenizer(Source("bare", tmp_path, path.name)).chat_template == {"rag": "rag"}


def test_an_unknown_rule_of_splitting_is_warned_of(tmp_path: Path) -> None:
    path = bare(tmp_path / "x.gguf", rule="somebody-s")
    with pytest.warns(UserWarning, match=r"^'bare' uses the pre-tokenizer 'somebody-s', which is"):
        gguf_tokenizer(Source("bare", tmp_path, path.name))


def test_a_file_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(
        ModelError, match=r"^the tokenizer in 'bare' cannot be read: .*; fetch the file again$"
    ):
        gguf_tokenizer(Source("bare", tmp_path, "x.gguf"))
