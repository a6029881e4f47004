"""The report of inspect: a line for each fact, blocks in a table, and what made the model."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from birdbone.checkpoints import LeftOut
from birdbone.reports.description import inspection_report
from birdbone.reports.inspection import BlockGroup, BlockLinear, Inspection
from birdbone.reports.inventory import Codes, Inventory

LINEARS = (BlockLinear("self_attn.q_proj", 32, 32), BlockLinear("mlp.experts.up", 64, 32, count=4))


def inspection(**more: Any) -> Inspection:
    held = {
        "model_bytes": 4_000,
        "loaded_bytes": 8_000,
        **{key: more.pop(key) for key in list(more) if key in Inventory.__dataclass_fields__},
    }
    values: dict[str, Any] = {
        "name": "tiny",
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "parameters": 1_234_567,
        "weight_bytes": 5_000_000,
        "stored_bytes": {"bfloat16": 4_000_000, "int8": 1_000_000},
        "tied": True,
        "path": "model.layers",
        "blocks": (BlockGroup(0, 2, LINEARS),),
        "contents": Inventory(**held),
    }
    return Inspection(**{**values, **more})


def lines(**more: Any) -> list[str]:
    console = Console(width=160, file=StringIO(), record=True)
    console.print(inspection_report(inspection(**more)))
    return [" ".join(line.split()) for line in console.export_text().splitlines()]


def fact(name: str, **more: Any) -> str | None:
    """The line of one fact; None if there is none."""
    return next((line for line in lines(**more) if line.startswith(f"{name} ")), None)


def test_every_fact_of_a_plain_model_has_a_line() -> None:
    assert lines()[:9] == [
        "model tiny",
        "architecture LlamaForCausalLM (llama)",
        "blocks 3 in model.layers",
        "parameters 1,234,567",
        "weights on disk 5,000,000 bytes (5.0 MB)",
        "stored as 4.0 MB bfloat16, 1.0 MB int8",
        "in the model 4,000 bytes of them",
        "once loaded 8,000 bytes (8.0 kB)",
        "output head tied to the embedding",
    ]


def test_a_head_of_its_own_and_zeros_are_said() -> None:
    assert fact("output head", tied=False) == "output head separate weights"
    assert fact("zeros", zero_share=0.125) == "zeros 12.50% of the parameters"
    assert fact("zeros", zero_share=0.0) == "zeros 0.00% of the parameters"
    assert fact("zeros") is None


@pytest.mark.parametrize(
    ("kept", "ends"), [(True, "; load(dequantize=False) keeps the codes"), (False, "")]
)
def test_what_load_makes_of_quantised_weights_is_said(kept: bool, ends: str) -> None:
    codes = Codes(weights=21, stored_bytes=500, dtype="float32", kept=kept)
    assert fact("once loaded", codes=codes) == (
        f"once loaded 8,000 bytes (8.0 kB): 21 quantised weights are read as float32 values{ends}"
    )


def test_what_else_the_source_holds_is_listed() -> None:
    found = lines(
        chosen="model.safetensors, not pytorch_model.bin",
        duplicate_bytes=1_000,
        unused={"mtp.a": 1_500, "mtp.b": 500},
        unused_groups={"mtp": 2},
        carried={"tokenizer.json": 3_000, "LICENSE": 10},
        from_header=("tokenizer", "chat template"),
        left_out=(LeftOut("a.bin", 7, "not read"), LeftOut("b.py", 2, "code")),
    )
    assert found[9:16] == [
        "weight files model.safetensors, not pytorch_model.bin",
        "stored twice 1,000 bytes of tied weights",
        "unused, carried 2 tensors (2,000 bytes) without a parameter: mtp",
        "files carried tokenizer.json, LICENSE (3,010 bytes)",
        "from the header tokenizer, chat template: carried",
        "left out b.py (2 bytes): code",
        "left out a.bin (7 bytes): not read",
    ]


def test_long_lists_are_cut() -> None:
    files = {f"f{number}": 1 for number in range(11)}
    assert fact("files carried", carried=files) == (
        "files carried f0, f1, f2, f3, f4, f5, f6, f7 and 3 more (11 bytes)"
    )
    eight = dict(list(files.items())[:8])
    assert fact("files carried", carried=eight) == (
        "files carried f0, f1, f2, f3, f4, f5, f6, f7 (8 bytes)"
    )


def test_blocks_alike_share_a_table() -> None:
    groups = (BlockGroup(0, 2, LINEARS), BlockGroup(3, 3, LINEARS[:1]))
    found = [line.replace("┃", "").replace("│", "") for line in lines(blocks=groups)]
    found = [" ".join(line.split()) for line in found]
    assert "blocks 0 to 2, each out × in weights" in found
    assert "block 3 out × in weights" in found
    assert found.count("self_attn.q_proj 32 × 32 1,024") == 2
    assert "mlp.experts.up 4 × 64 × 32 8,192" in found


def test_steps_that_made_it_come_last() -> None:
    assert "History" not in lines()
    record = {
        "birdbone": "0.1.0",
        "source": "someone/model",
        "steps": [{"link": "prune", "settings": {"sparsity": 0.5}}],
    }
    assert lines(provenance=record, quantization={"quant_method": "gptq"})[-5:] == [
        "History",
        "quantised: quant_method=gptq",
        "made by birdbone 0.1.0",
        "from someone/model",
        "prune(sparsity=0.5)",
    ]


def test_names_are_no_markup() -> None:
    assert "model [red]tiny[/red]" in lines(name="[red]tiny[/red]")
