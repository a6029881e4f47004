"""What of the source is no part of the model: in the card, in the record, and in a GGUF file."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_checkpoint

from birdbone.checkpoints import Checkpoint, InMemory, LeftOut
from birdbone.reports.source_contents import (
    as_in_gguf,
    contents_markdown,
    contents_record,
    left_out_lines,
)

NO_PLACE = "a GGUF file has no place for it"


def holding(**files: bytes) -> Checkpoint:
    """A model beside an unused tensor of 16 bytes and two files that were left out."""
    return replace(
        tiny_checkpoint(num_hidden_layers=1),
        files=files,
        unused={"mtp.fc.weight": InMemory(torch.ones(4))},
        left_out=(LeftOut("b.bin", 4, "not read"), LeftOut("a.bin", 3, "not read")),
    )


def test_the_record_names_everything_with_its_bytes() -> None:
    found = contents_record(holding())
    assert json.loads(json.dumps(found)) == found
    assert found == {
        "unused": {"mtp.fc.weight": 16},
        "left_out": [
            {"name": "b.bin", "bytes": 4, "why": "not read"},
            {"name": "a.bin", "bytes": 3, "why": "not read"},
        ],
    }


def test_the_card_says_what_was_carried_and_what_was_not() -> None:
    carried, opening, listed = contents_markdown(holding()).split("\n\n")
    assert carried == (
        "Carried unchanged: 1 tensor (16 bytes): mtp. LlamaForCausalLM has no parameters for them: "
        "they do not take part in its computation and were not changed with the model."
    )
    assert (opening, listed) == ("Left out:", "- b.bin, a.bin (7 bytes): not read")


def test_a_source_of_a_model_alone_needs_no_section() -> None:
    assert contents_markdown(tiny_checkpoint(num_hidden_layers=1)) == ""


def test_a_gguf_file_holds_the_tokenizer_and_licences_alone() -> None:
    names = ("tokenizer.json", "LICENSE", "preprocessor_config.json", "docs/x.txt")
    found = as_in_gguf(holding(**dict.fromkeys(names, b"12")))
    assert list(found.files) == ["tokenizer.json", "LICENSE"]
    assert found.unused == {}
    assert found.left_out == (
        LeftOut("b.bin", 4, "not read"),
        LeftOut("a.bin", 3, "not read"),
        LeftOut("mtp.fc.weight", 16, NO_PLACE),
        LeftOut("preprocessor_config.json", 2, NO_PLACE),
        LeftOut("docs/x.txt", 2, NO_PLACE),
    )


def test_a_model_that_fits_is_unchanged() -> None:
    made = replace(holding(LICENSE=b"x", **{"merges.txt": b"y"}), unused={})
    assert as_in_gguf(made).left_out == made.left_out
    assert as_in_gguf(made).id == made.id


def test_each_reason_has_a_line_and_the_first_names() -> None:
    many = [LeftOut(f"f{number}", 500, "too large") for number in range(8)]
    assert left_out_lines([LeftOut("z", 1, "a link"), *many, LeftOut("y", 2, "a link")]) == [
        "z, y (3 bytes): a link",
        "f0, f1, f2, f3, f4, f5 and 2 more (4,000 bytes): too large",
    ]


def test_two_of_one_name_count_twice() -> None:
    """Such as tensors of that name in two files."""
    twice = [LeftOut("x", 4, "why"), LeftOut("x", 5, "why")]
    assert left_out_lines(twice) == ["x, x (9 bytes): why"]


ENTRIES = st.lists(
    st.builds(LeftOut, st.sampled_from("abc"), st.integers(0, 100), st.sampled_from(["p", "q"])),
    max_size=12,
)


@given(ENTRIES)
def test_no_byte_is_lost(entries: list[LeftOut]) -> None:
    lines = left_out_lines(entries)
    assert len(lines) == len({each.why for each in entries})
    sizes = [int(line.partition("(")[2].partition(" ")[0].replace(",", "")) for line in lines]
    assert sum(sizes) == sum(each.num_bytes for each in entries)
