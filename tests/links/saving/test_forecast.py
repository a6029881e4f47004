"""What save is expected to cost: folders written, fresh processes, windows read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny import tiny_checkpoint, tiny_windows
from tiny_folders import quantized
from tiny_verdicts import verdict_on

from birdbone.contexts.forecast import Forecast
from birdbone.links.saving.forecast import save_forecast
from birdbone.links.saving.settings import SaveSettings

BLOCKS = 3
DENSE = tiny_checkpoint()
HELD = tiny_windows(4)


def told(settings: dict[str, Any] | None = None, **more: Any) -> Forecast:
    ctx: Any = {"checkpoint": DENSE, "dense": DENSE, "heldout": HELD, **more}
    return save_forecast(ctx, SaveSettings(path="light", **(settings or {})))


def test_two_models_in_three_processes() -> None:
    """Each reads the text and two windows for its speed; a third process proves the folder."""
    found = told()
    assert found.starts == 3
    assert found.block_passes == BLOCKS * (2 * (4 + 2) + 4)
    assert found.decoded_tokens == 2 * (24 * 6 + 2 * 48)
    assert told({"samples": 1}).decoded_tokens == 2 * (24 * 6 + 48)


def test_without_comparison() -> None:
    found = told({"compare": False})
    assert found.starts == 2
    assert found.block_passes == BLOCKS * ((4 + 2) + 4)
    assert found.passing_disk_bytes == 0
    assert found.process_bytes < told().process_bytes


def test_what_a_link_has_judged_is_not_run_again() -> None:
    before, after = told(), told(verdict=verdict_on(HELD, 20.0, DENSE.id))
    assert before.block_passes - after.block_passes == BLOCKS * 4
    assert after.memory_bytes <= before.memory_bytes


def test_every_text_is_read() -> None:
    more = told(elsewhere=tiny_windows(5, seed=1))
    assert more.block_passes - told().block_passes == BLOCKS * 3 * 5


def test_no_text() -> None:
    ctx: Any = {"checkpoint": DENSE, "dense": DENSE}
    found = save_forecast(ctx, SaveSettings(path="light"))
    assert found.block_passes == BLOCKS * 2 * 2


def test_what_is_left_on_disk() -> None:
    """The light model stays, beside a few small files; the original passes."""
    light = quantized(DENSE)
    found, dense = told(checkpoint=light), told()
    assert dense.disk_bytes - found.disk_bytes == DENSE.num_bytes - light.num_bytes
    assert found.passing_disk_bytes == DENSE.num_bytes
    assert light.num_bytes < found.disk_bytes < light.num_bytes + (16 << 20)


def test_files_of_the_model_count_where_they_are_known() -> None:
    sizes = {
        size: told(checkpoint=replace(DENSE, files={"tokenizer.json": b" " * size})).disk_bytes
        for size in (1000, 3000)
    }
    assert sizes[3000] - sizes[1000] == 2000
    assert sizes[3000] < told(checkpoint=replace(DENSE, files={})).disk_bytes


def test_larger_shards_take_no_more_memory() -> None:
    wide = tiny_checkpoint(vocab_size=128, hidden_size=256, intermediate_size=1024)
    ctx: Any = {"checkpoint": wide, "dense": wide}
    small, large = (
        save_forecast(ctx, SaveSettings(path="o", max_shard_gb=size, proof_tokens=0)).memory_bytes
        for size in (1e-4, 5.0)
    )
    assert small == large


def test_an_estimate_of_all_links_is_of_the_light_model() -> None:
    found = told(checkpoint=tiny_checkpoint(num_hidden_layers=1))
    assert found.block_passes == told().block_passes / BLOCKS
    assert found.adds == {"saved": None}


@pytest.mark.parametrize("tokens", [0, 16])
def test_memory_is_never_nothing(tokens: int) -> None:
    assert told({"proof_tokens": tokens}).memory_bytes > 0
