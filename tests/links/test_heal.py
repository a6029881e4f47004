from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_model, tiny_windows

from birdbone.checkpoints import Checkpoint, Quantized, diff
from birdbone.engine import Chain, Progress, run
from birdbone.errors import LinkError, SettingError
from birdbone.links.heal import heal
from birdbone.models.opening import as_checkpoint

LINEAR = "model.layers.1.mlp.up_proj.weight"
QUICK: dict[str, Any] = {"rank": 4, "learning_rate": 1e-2, "epochs": 2, "kl_weight": 1.0}


def _dense(dtype: torch.dtype = torch.float32) -> Checkpoint:
    return as_checkpoint(tiny_model("llama_tied").to(dtype))


def _pruned(dense: Checkpoint) -> Checkpoint:
    """The lighter half of every plain linear's weights set to zero."""
    fresh = {}
    for name, tensor in dense.tensors.items():
        if "_proj" in name and tensor.ndim == 2:
            fresh[name] = tensor.masked_fill(tensor.abs() < tensor.abs().float().median(), 0.0)
    return dense.evolve(fresh)


def _context(light: Checkpoint, dense: Checkpoint, windows: int = 6) -> dict[str, Any]:
    text = tiny_windows(windows)
    texts = {"calibration": text, "healing": text, "heldout": text}
    return {"checkpoint": light, "dense": dense, **texts}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
async def test_it_heals_and_wakes_no_zero(dtype: torch.dtype) -> None:
    dense = _dense(dtype)
    light = _pruned(dense)
    ctx = await run(heal(**QUICK), _context(light, dense))
    healed, metrics = ctx["checkpoint"], ctx["history"][-1].metrics
    assert metrics["kept"] is True
    assert metrics["loss_after"] < 0.9 * metrics["loss_before"]
    assert metrics["steps"] == 10
    assert diff(light, healed).changed == tuple(sorted(n for n in light.refs if "_proj" in n))
    for name, ref in healed.refs.items():
        assert ref.dtype == dtype
        assert torch.equal(ref.load() == 0, light.tensors[name] == 0), name


async def test_what_it_was_given_stays_as_it_was() -> None:
    dense = _dense()
    light = _pruned(dense)
    before = {name: tensor.clone() for name, tensor in light.tensors.items()}
    ctx = await run(heal(**QUICK), _context(light, dense))
    assert ctx["checkpoint"].parent == light.id
    assert all(torch.equal(tensor, before[name]) for name, tensor in light.tensors.items())


async def test_where_nothing_is_gained_the_very_model_is_handed_on() -> None:
    dense = _dense()
    ctx = await run(heal(**QUICK), _context(dense, dense))
    metrics = ctx["history"][-1].metrics
    assert ctx["checkpoint"] is dense
    assert metrics["kept"] is False
    assert metrics["loss_after"] >= metrics["loss_before"]


async def test_the_seed_decides_and_global_random_state_does_not() -> None:
    dense = _dense()
    light = _pruned(dense)
    ids = []
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        ctx = await run(heal(seed=seed, **QUICK), _context(light, dense))
        ids.append(ctx["checkpoint"].id)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(1)
    assert ids[0] == ids[1] != ids[2]


async def test_without_kl_the_dense_model_is_not_run() -> None:
    class Labels:
        def __init__(self) -> None:
            self.heard: list[Progress] = []

        def progress(self, link: Any, progress: Progress, notes: Any) -> None:
            self.heard.append(progress)

    heard = {}
    for kl_weight in (0.0, 0.5):
        labels = Labels()
        chain = Chain(heal(rank=2, epochs=1, kl_weight=kl_weight, batch_size=2))
        chain.use(labels)
        await chain.run(_context(_pruned(_dense()), _dense()))
        heard[kl_weight] = {(each.label, each.total) for each in labels.heard}
    assert heard == {0.0: {("healing", 3)}, 0.5: {("dense outputs", 3), ("healing", 3)}}


async def test_quantised_weights_are_refused() -> None:
    dense = _dense()
    codes = Quantized(torch.ones(64, 32, dtype=torch.int8), torch.ones(64, 2), bits=4)
    light = dense.evolve({LINEAR: codes})
    with pytest.raises(LinkError, match=r"layers\.1\.mlp\.up_proj' is quantised.*heal before") as e:
        await run(heal(**QUICK), _context(light, dense))
    assert isinstance(e.value.__cause__, SettingError)


async def test_experts_in_one_tensor_are_left_with_a_warning() -> None:
    dense = tiny_checkpoint("mixtral")
    context = _context(_pruned(dense), dense)
    with pytest.warns(UserWarning, match=r"heal leaves 24 expert matrices.*gate_up_proj\[0\]"):
        ctx = await run(heal(**QUICK), context)
    changed = diff(context["checkpoint"], ctx["checkpoint"]).changed
    assert changed
    assert all("self_attn" in name for name in changed)


async def test_too_few_windows_are_refused_with_the_mend() -> None:
    dense = _dense()
    with pytest.raises(LinkError, match=r"'tiny words' has 1 windows .* keeps out 1.*give more"):
        await run(heal(**QUICK), _context(dense, dense, windows=1))


def test_its_memory_grows_with_what_it_will_hold() -> None:
    dense = _dense()
    context = _context(_pruned(dense), dense)
    estimate = heal.need_bytes
    assert estimate is not None
    alone = estimate(context, {"batch_size": 1, "kl_weight": 0.0, "rank": 4})
    adapters = 3 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert alone > 4 * (dense.num_parameters + 5 * adapters + 6 * 16 * 128)
    assert estimate(context, {"batch_size": 1, "kl_weight": 1.0, "rank": 4}) > alone
    assert estimate(context, {"batch_size": 2, "kl_weight": 0.0, "rank": 4}) > alone
    higher = estimate(context, {"batch_size": 1, "kl_weight": 0.0, "rank": 8})
    assert higher - alone == 4 * 5 * adapters
