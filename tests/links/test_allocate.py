"""allocate: the folder that is written has the predicted size; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up_machine import made_up_speeds
from tiny import tiny_checkpoint
from tiny_choices import wide_checkpoint
from tiny_contexts import calibrated
from tiny_folders import written

from birdbone.engine import Chain, run
from birdbone.errors import LinkError, SettingError
from birdbone.links import allocate, quantize, sensitivity
from birdbone.models.planning.stored_bytes import stored_bytes

_SMALL = sensitivity(bits=(2, 3, 4, 8), group_sizes=(16, 32, None))


async def _run(arch: str, *more: Any, **settings: Any) -> dict[str, Any]:
    chain = Chain(_SMALL, allocate(**settings), *more)
    return await run(chain, calibrated(tiny_checkpoint(arch)))


@pytest.mark.filterwarnings("ignore:quantize does not quantise 6 tensors")
@pytest.mark.parametrize(
    ("arch", "ratio"),
    [("llama", 0.3), ("llama_tied", 0.6), ("qwen3", 0.3), ("gemma3", 0.6), ("mixtral", 0.9)],
)
async def test_predicted_size(arch: str, ratio: float, tmp_path: Path) -> None:
    """Experts of mixtral stay as they are."""
    ctx = await _run(arch, quantize(group_size="auto", matching=0.0), ratio=ratio)
    folder = written(ctx["checkpoint"], tmp_path / "light")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert size == ctx["allocation"].current.num_bytes <= ctx["allocation"].budget_bytes
    assert ctx["allocation"].budget_bytes == int(ratio * stored_bytes(tiny_checkpoint(arch)))
    metrics = next(step.metrics for step in ctx["history"] if step.link == "allocate")
    assert metrics["predicted_bytes"] == size
    assert metrics["exact"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bytes": "40kB", "ratio": 0.3}, "states 2 budgets; give one of them"),
        ({"bytes": "2kB"}, "2,000 bytes is below the smallest size of 'tiny/llama'"),
        ({"bytes": "1GB"}, "1,000,000,000 bytes, and the weight files of the model take"),
        ({"bits": 40.0}, "give a smaller budget"),
        ({"runtimes": ()}, "names no runtime"),
        ({"speed": 1.5, "rise": 0.1}, "states 2 budgets; give one of them"),
        ({"memory": "40kB", "bits": 3.0}, "states 2 budgets; give one of them"),
        (
            {"memory": "20kB"},
            r"memory=20,000\): the KV cache of 64 tokens alone takes 24,576 bytes; give more",
        ),
        ({"memory": "60kB", "context": 65}, "context=65.: the model has 64 positions; set context"),
        ({"memory": "26kB"}, r"1,424 bytes \(24,576 less for the KV cache\) is below the smallest"),
        ({"memory": "1GB"}, r"memory=1,000,000,000\) allows 999,975,424 bytes, and the weight"),
        ({"runtimes": ("llama.cpp",), "group_sizes": (16,)}, "no grid left that llama.cpp"),
    ],
)
async def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LinkError, match=message):
        await _run("llama", **settings)


@pytest.mark.parametrize(
    "settings", [{"bytes": "40kB", "ratio": 0.3}, {"bytes": "1GB"}, {"runtimes": ()}]
)
async def test_refused_before_work(settings: dict[str, Any]) -> None:
    """What is known from the model's shapes is refused before sensitivity runs."""
    chain = Chain(_SMALL, allocate(**settings))
    seen: list[str] = []
    chain.use(_Watch(seen))
    with pytest.raises(LinkError, match="link 'allocate' failed"):
        await run(chain, calibrated(tiny_checkpoint("llama")))
    assert seen == []


class _Watch:
    """Middleware that records the links that start."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    async def before(self, link: Any, ctx: Any, mwctx: Any) -> None:
        self.seen.append(link.__name__)

    async def after(self, link: Any, ctx: Any, result: Any, mwctx: Any) -> None:
        """Nothing."""


async def _fast(speed: float | str, *more: Any) -> dict[str, Any]:
    chain = Chain(sensitivity(format="gguf", windows=2), allocate(speed=speed), *more)
    return await run(chain, calibrated(wide_checkpoint("llama tied")))


@pytest.mark.usefixtures("made_up_machine")
async def test_speed() -> None:
    ctx = await _fast("1.8x", quantize(grid="allocated", matching=0.0))
    metrics = next(step.metrics for step in ctx["history"] if step.link == "allocate")
    assert metrics["speed"] == ctx["allocation"].current.speed >= 1.8
    (found,) = await made_up_speeds(ctx["dense"], [ctx["checkpoint"]], rounds=1)
    assert found == pytest.approx(metrics["speed"])


@pytest.mark.usefixtures("made_up_machine")
async def test_quantize_refuses_what_is_too_slow() -> None:
    with pytest.raises(LinkError, match="'quantize' failed: no ggml types make the model run 9 ti"):
        await _fast(9, quantize(grid="allocated"))


@pytest.mark.usefixtures("made_up_machine")
async def test_speed_of_a_folder() -> None:
    with pytest.raises(LinkError, match=r"speed=1.5\) is measured in llama.cpp, which runs GGUF"):
        await _run("llama", speed=1.5)


async def test_speed_needs_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birdbone.formats.llama_cpp.find_spec", lambda name: None)
    with pytest.raises(LinkError, match=r"run pip install 'birdbone\[llama\]'"):
        await _fast(1.5)


@pytest.mark.parametrize("speed", [1, "0.5x", "fast", "inf"])
def test_no_speed(speed: float | str) -> None:
    with pytest.raises(SettingError, match=r"allocate\(speed="):
        allocate(speed=speed)


@pytest.mark.parametrize(("context", "cache"), [(None, 24_576), (16, 6144)])
async def test_memory(context: int | None, cache: int) -> None:
    """The weights get what the KV cache leaves: 3 layers, 2 heads of 8 values, float32."""
    ctx = await _run("llama", memory="70kB", context=context)
    allocation = ctx["allocation"]
    assert (allocation.budget_bytes, allocation.cache_bytes) == (70_000 - cache, cache)
    assert allocation.current.num_bytes <= 70_000 - cache
    assert ctx["history"][-1].metrics["kv_cache_bytes"] == cache


async def test_context_is_for_memory() -> None:
    with pytest.warns(UserWarning, match=r"allocate\(context=16\) is not used without memory"):
        await _run("llama", ratio=0.3, context=16)


async def test_steps_are_for_a_rise() -> None:
    with pytest.warns(
        UserWarning, match=r"allocate\(steps=4\) is not used without rise; with a bu"
    ):
        await _run("llama", ratio=0.3, steps=4)
