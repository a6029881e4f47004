"""Windows come from the text, in order, without overlap, the same each time."""

import logging
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from birdbone.errors import DataError, SettingError
from birdbone.texts.windows import Windows, check_vocabulary, copied_windows, pack_windows

EOS = 0


class Letters:
    """A tokenizer of one token a character, which adds a special token unless told not to."""

    def __init__(self, eos_token_id: int | None = EOS) -> None:
        self.eos_token_id = eos_token_id
        self.documents_read = 0

    def __call__(self, text: str, *, add_special_tokens: bool = True, verbose: bool = True) -> dict:
        self.documents_read += 1
        return {"input_ids": [1] * add_special_tokens + [ord(letter) for letter in text]}


def pack(documents: Sequence[str], **settings) -> Windows:
    tokenizer = settings.pop("tokenizer", None) or Letters()
    return pack_windows(documents, tokenizer, **{"limit": None, "text": "drawn", **settings})


def joined(documents: Sequence[str]) -> list[int]:
    return [ord(letter) for letter in chr(EOS).join(documents)]


drawn_documents = st.lists(st.text(alphabet="abc", max_size=20), max_size=10)
lengths = st.integers(min_value=2, max_value=8)
limits = st.none() | st.integers(min_value=1, max_value=12)
seeds = st.none() | st.integers(min_value=0, max_value=2**32)


@given(drawn_documents, lengths, limits, seeds)
def test_windows_are_distinct_slices_of_the_text_in_order(documents, length, limit, seed) -> None:
    tokens = joined(documents)
    if len(tokens) < length:
        with pytest.raises(DataError, match=f"has {len(tokens)} tokens; one window needs {length}"):
            pack(documents, length=length, limit=limit, seed=seed)
        return
    windows = pack(documents, length=length, limit=limit, seed=seed)
    everything = [tokens[at : at + length] for at in range(0, len(tokens) - length + 1, length)]
    assert windows.num_windows == min(limit or len(everything), len(everything))
    remaining = iter(everything)
    assert all(row in remaining for row in windows.tokens.tolist())
    if seed is None:
        assert windows.tokens.tolist() == everything[: windows.num_windows]


@given(drawn_documents, lengths, limits, seeds)
def test_the_same_call_gives_the_same_windows(documents, length, limit, seed) -> None:
    settings = {"length": length, "limit": limit, "seed": seed}
    if len(joined(documents)) >= length:
        first, second = pack(documents, **settings), pack(documents, **settings)
        assert torch.equal(first.tokens, second.tokens)
        assert first.digest == second.digest


def test_sizes_dtype_and_name() -> None:
    windows = pack(["abcdefg", "hij"], length=3, text="bones.txt, held-out")
    assert (windows.num_windows, windows.length, windows.num_tokens) == (3, 3, 9)
    assert windows.tokens.dtype == torch.int64
    assert windows.text == "bones.txt, held-out"


def test_without_an_end_of_text_token_documents_follow_one_another() -> None:
    windows = pack(["ab", "cd"], length=2, tokenizer=Letters(eos_token_id=None))
    assert windows.tokens.tolist() == [[97, 98], [99, 100]]


def test_another_seed_chooses_other_windows_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    document = ["".join(map(chr, range(100, 300)))]
    first, second = (pack(document, length=2, limit=10, seed=seed) for seed in (1, 2))
    assert first.tokens.tolist() != second.tokens.tolist()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seeded_choice_is_made_from_the_whole_text() -> None:
    documents = [letter * 4 for letter in "abcdefgh"]
    chosen = {
        tuple(pack(documents, length=4, limit=1, seed=seed).tokens[0].tolist())
        for seed in range(20)
    }
    assert len(chosen) > 4


def test_a_limit_from_the_front_reads_no_more_documents_than_it_needs() -> None:
    tokenizer = Letters()
    assert pack(["abcd"] * 100, length=4, limit=2, tokenizer=tokenizer).num_windows == 2
    assert tokenizer.documents_read == 2


def test_the_digest_sees_tokens_and_shape_and_not_the_name() -> None:
    tokens = torch.arange(12)
    digest = Windows(tokens.reshape(3, 4), "a").digest
    assert Windows(tokens.reshape(3, 4), "b").digest == digest
    assert Windows(tokens.reshape(4, 3), "a").digest != digest
    assert Windows(tokens.flip(0).reshape(3, 4), "a").digest != digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 1}, "window length is 1; at least 2"),
        ({"length": 4, "limit": 0}, "window limit is 0; ask for at least 1"),
    ],
)
def test_sizes_that_make_no_window_are_refused(settings, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        pack(["abcdefgh"], **settings)


def test_a_foreign_token_id_is_refused_and_the_last_known_one_is_not() -> None:
    windows = Windows(torch.tensor([[3, 9]]), "bones.txt")
    check_vocabulary(windows, 10)
    with pytest.raises(DataError, match=r"'bones\.txt' has token id 9.*below 9"):
        check_vocabulary(windows, 9)


def test_a_transformers_tokenizer_packs_long_text_without_its_length_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"<end>": 0, "<unk>": 1, "hollow": 2, "bone": 3}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", unk_token="<unk>", model_max_length=4
    )
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    windows = pack(["hollow bone " * 4, "bone of bird"], length=4, tokenizer=tokenizer)
    assert windows.tokens.tolist() == [[2, 3, 2, 3], [2, 3, 2, 3], [0, 3, 1, 1]]
    assert caplog.records == []


def test_windows_cut_elsewhere_from_the_same_text_are_found_as_copies() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 5000, (12 * 96,), generator=generator)
    other = Windows(tokens[: 8 * 96].view(8, 96), "healing")
    moved = tokens[41 : 41 + 2 * 96].view(2, 96)
    foreign = tokens[8 * 96 :].view(4, 96)[:2]
    assert copied_windows(Windows(torch.cat([foreign, moved]), "held-out"), other) == [2, 3]


def test_a_few_words_in_common_are_no_copy() -> None:
    generator = torch.Generator().manual_seed(1)
    one, two = (torch.randint(0, 5000, (1, 96), generator=generator) for _ in range(2))
    two[0, 32:64] = one[0, :32]
    assert copied_windows(Windows(two, "held-out"), Windows(one, "healing")) == []
    two[0, 64:] = one[0, 32:64]
    assert copied_windows(Windows(two, "held-out"), Windows(one, "healing")) == [0]


def test_short_windows_are_compared_whole() -> None:
    tokens = torch.arange(24).view(3, 8)
    assert copied_windows(Windows(tokens[1:], "held-out"), Windows(tokens[:2], "healing")) == [0]
