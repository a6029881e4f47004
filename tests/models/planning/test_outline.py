"""A model in outline is the model but for its values."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs
from tiny_folders import quantized, written

from birdbone.checkpoints import BitsAndBytes, ObjectStore, Quantized
from birdbone.engine import run
from birdbone.errors import ModelError
from birdbone.links import quantize
from birdbone.models.planning.outline import (
    Outlined,
    exchanged,
    held_bytes,
    outlined_codes,
    outlined_model,
)
from birdbone.models.planning.timing import Clock, Moment, time_block
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import Source, find_model
from birdbone.models.writing.folder import write_model


@pytest.mark.parametrize("arch", tiny_configs)
def test_it_has_the_tensors_the_opened_model_has(arch: str, tmp_path: Path) -> None:
    write_model(tiny_checkpoint(arch), tmp_path, max_shard_bytes=1 << 30)
    source = Source("tiny", tmp_path)
    opened = open_checkpoint(source, dtype=torch.bfloat16)
    outline = outlined_model(source, torch.bfloat16)
    assert {name: (ref.shape, ref.dtype) for name, ref in outline.refs.items()} == {
        name: (ref.shape, ref.dtype) for name, ref in opened.refs.items()
    }
    assert outline.config == opened.config
    assert held_bytes(outline) == 0  # weights in safetensors stay on disk


def test_what_is_held_is_counted_once() -> None:
    outline = Outlined((8, 4), torch.float32, held=True)
    checkpoint = tiny_checkpoint()
    assert held_bytes(checkpoint, checkpoint) == checkpoint.num_bytes
    name = next(iter(checkpoint.refs))
    size = checkpoint.refs[name].num_bytes
    light = exchanged(checkpoint, {name: outline})
    assert held_bytes(checkpoint, light) == checkpoint.num_bytes + 128
    assert held_bytes(light) == checkpoint.num_bytes - size + 128


def test_codes_are_held_a_byte_each_and_stored_in_fewer() -> None:
    codes = outlined_codes(Outlined((8, 64), torch.float32, held=False), 4, 2, torch.float16)
    checkpoint = tiny_checkpoint()
    name = next(iter(checkpoint.refs))
    only = exchanged(checkpoint, {name: codes})
    rest = checkpoint.num_bytes - checkpoint.refs[name].num_bytes
    assert held_bytes(only) - rest == 8 * 64 + 8 * 2 * 2
    assert codes.num_bytes == 8 * 64 // 2 + 8 * 2 * 2
    handed = BitsAndBytes(
        Outlined((8, 64), torch.float32, held=True), torch.empty(8, 64, device="meta"), kind="nf4"
    )
    assert held_bytes(exchanged(checkpoint, {name: handed})) - rest == 2 * 8 * 64 * 4


def test_codes_on_disk_are_not_held(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    name = next(iter(checkpoint.refs))
    codes = Quantized(torch.ones(2, 4, dtype=torch.int8), torch.full((2, 2), 0.5), bits=4)
    store = ObjectStore(tmp_path)
    stored = store.ref(store.keep(codes))
    rest = held_bytes(checkpoint) - checkpoint.refs[name].num_bytes
    assert held_bytes(exchanged(checkpoint, {name: codes})) == rest + 2 * 4 + 2 * 2 * 4
    assert held_bytes(exchanged(checkpoint, {name: stored})) == rest


def test_drawn_values_are_the_same_each_time_and_finite() -> None:
    outline = Outlined((8, 4), torch.bfloat16, held=False)
    assert torch.equal(outline.load(), outline.load())
    assert outline.load().dtype == torch.bfloat16
    assert Outlined((3,), torch.int64, held=False).load().tolist() == [0, 0, 0]
    assert outline.digest != Outlined((4, 8), torch.bfloat16, held=False).digest


@pytest.mark.parametrize("arch", ["llama_tied", "gpt2", "mixtral", "gemma3"])
def test_a_block_of_it_can_be_timed(arch: str, tmp_path: Path) -> None:
    write_model(tiny_checkpoint(arch), tmp_path, max_shard_bytes=1 << 30)
    times = time_block(outlined_model(Source("tiny", tmp_path), None), 32)
    assert min(times.block, times.head, times.solve, times.token) > 0


def ticking(wall: float, own: float, machine: float) -> Clock:
    """Clocks that go on by so much each time they are looked at."""
    counts = itertools.count()
    return lambda: (lambda n: Moment(n * wall, n * own, n * machine))(next(counts))


@pytest.mark.parametrize(
    ("machine", "taken", "block"),
    [
        (0.25, 0.0, 0.5),  # nobody else: wall time, however few of the threads were used
        (0.35, 0.2, 0.5),  # hardly anybody
        (1.0, 1.5, 0.125),  # what two threads of this process really did, each
    ],
)
def test_what_others_take_of_the_machine_is_not_counted(
    machine: float, taken: float, block: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    write_model(tiny_checkpoint(), tmp_path, max_shard_bytes=1 << 30)
    outline = outlined_model(Source("tiny", tmp_path), None)
    found = time_block(outline, 32, clock=ticking(0.5, 0.25, machine))
    assert found.taken == pytest.approx(taken)
    assert (found.block, found.head, found.gram) == pytest.approx((block, block, 0.0))


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"model_type": "none"}'])
def test_a_config_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError):
        outlined_model(Source("tiny", tmp_path), None)


def test_a_quantised_folder_is_multiplied_out_and_held(tmp_path: Path) -> None:
    write_model(tiny_checkpoint(), tmp_path, max_shard_bytes=1 << 30)
    config = json.loads((tmp_path / "config.json").read_text())
    config.update({"quantization_config": {"quant_method": "bitsandbytes"}, "dtype": "bfloat16"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    outline = outlined_model(Source("tiny", tmp_path), None)
    assert held_bytes(outline) == outline.num_bytes == 2 * outline.num_parameters


def test_weights_held_as_codes_are_foretold_in_float32(tmp_path: Path) -> None:
    dense = tiny_checkpoint()
    stored = {name: ref.load().bfloat16() for name, ref in dense.refs.items()}
    light = quantized(dense.evolve(stored, config={"dtype": "bfloat16"}))
    source = find_model(str(written(light, tmp_path / "light")))
    foretold, opened = outlined_model(source, None), open_checkpoint(source)
    assert {n: ref.dtype for n, ref in foretold.refs.items()} == {
        n: ref.dtype for n, ref in opened.refs.items()
    }
    assert foretold.num_bytes == opened.num_bytes


@pytest.mark.filterwarnings("ignore:quantize stores dequantised values")
@pytest.mark.parametrize("settings", [{"group_size": 16}, {"group_size": None, "bits": 8}])
async def test_codes_that_are_kept_are_told_as_codes(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    dense = tiny_checkpoint()
    asked = quantize(method="rtn", **settings)
    light = (await run(asked, {"checkpoint": dense, "dense": dense}))["checkpoint"]
    write_model(light, tmp_path, max_shard_bytes=1 << 30)
    source = Source("tiny", tmp_path)
    opened = open_checkpoint(source, dequantize=False)
    told = outlined_model(source, None, dequantize=False)
    assert told.num_bytes == opened.num_bytes
    assert held_bytes(told) == held_bytes(opened) > 0
    assert held_bytes(told) < held_bytes(outlined_model(source, None)) / 2


def test_the_description_of_a_hub_model_is_enough(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    (tmp_path / "config.json").write_text(json.dumps(dict(checkpoint.config)))
    outline = outlined_model(Source("owner/name", tmp_path, has_weights=False), None)
    assert outline.num_bytes == checkpoint.num_bytes
