"""The head of a GGUF file without its vocabulary makes the config that the whole file makes."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from tiny_gguf import VARIANTS, gguf_checkpoint

from birdbone.formats.gguf_writer import write_gguf
from birdbone.models.codecs import gguf_head
from birdbone.models.codecs.gguf_config import gguf_config
from birdbone.models.codecs.gguf_head import read_head


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gguf_head, "_LONGEST", 8)
    return write_gguf(gguf_checkpoint(), tmp_path / "tiny.gguf").path


def settings(config: object) -> dict[str, object]:
    found: dict[str, object] = config.to_dict()  # type: ignore[attr-defined]
    return {key: value for key, value in found.items() if key != "_name_or_path"}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore")
def test_the_config_is_that_of_the_whole_file(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(gguf_checkpoint(variant), tmp_path / "tiny.gguf").path
    whole = gguf_config(path)
    monkeypatch.setattr(gguf_head, "_LONGEST", 8)
    assert settings(gguf_config(path)) == settings(whole)


def test_lists_are_cut_and_tokens_counted(file: Path) -> None:
    head = read_head(file)
    whole = GGUFReader(file)
    with head.as_file() as short:
        found = GGUFReader(short)
        assert [tensor.name for tensor in found.tensors] == [t.name for t in whole.tensors]
        assert found.fields.keys() == whole.fields.keys()
        assert len(found.fields["tokenizer.ggml.tokens"].data) == 2
    assert head.num_tokens == len(whole.fields["tokenizer.ggml.tokens"].data) > 8
    assert head.says_size


def test_a_vocabulary_is_counted_where_no_key_says_its_size(tmp_path: Path) -> None:
    path = tmp_path / "bare.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token {index}" for index in range(3000)])
    writer.add_tensor_info("output_norm.weight", [64], np.dtype(np.float32), 256)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    head = read_head(path)
    assert (head.num_tokens, head.says_size) == (3000, False)
    assert gguf_config(path).vocab_size == 3000


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[:300], "ends within its head"),
        (lambda data: b"GGML" + data[4:], "does not begin as GGUF files do"),
        (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "version is 50331648"),
        (lambda data: data[:16] + struct.pack("<Q", 1 << 60) + data[24:], "ends within its head"),
        (lambda data: data[:24] + struct.pack("<Q", 1 << 60) + data[32:], "ends within its head"),
        (lambda data: b"G", "ends within its head"),
        (lambda data: b"", "empty"),
    ],
)
def test_what_is_damaged_or_another_is_refused(
    damage: Callable[[bytes], bytes], says: str, file: Path
) -> None:
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=says):
        gguf_config(file)


def listed(path: Path, *entries: bytes, count: int) -> Path:
    """A file of one key, a list that says it has ``count`` lists of two bytes each."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    key = struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, count)
    path.write_bytes(head + key + b"".join(struct.pack("<IQ", 0, 2) + each for each in entries))
    return path


def test_lists_of_lists_are_stepped_over_and_end_where_the_file_does(tmp_path: Path) -> None:
    path = listed(tmp_path / "lists.gguf", b"ab", b"cd", count=2)
    assert b"cd" in read_head(path).data
    with pytest.raises(ValueError, match="ends within its head"):
        read_head(listed(path, b"ab", b"cd", count=1 << 60))
