from dataclasses import replace
from typing import Any

import pytest
import torch
from interrupting import Place, Stopped, stop_at
from tiny import tiny_checkpoint, tiny_configs, tiny_windows
from tiny_contexts import block_matrices
from torch import Tensor

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.errors import NumericsError, SettingError
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.planning.memory import block_bytes
from birdbone.models.training.blockwise import BlockHealing, heal_blocks
from birdbone.models.training.optimiser import Healed
from birdbone.texts import Windows

WINDOWS = tiny_windows(8)
HOW = BlockHealing(learning_rate=1e-3, epochs=3, batch_size=2, heldout=3, target="dense")


def pruned(dense: Checkpoint, *blocks: int) -> Checkpoint:
    """The lighter half of the matrices' weights set to zero, in these blocks or in all."""
    fresh = {}
    for name in block_matrices(dense):
        if not blocks or any(f".{index}." in name for index in blocks):
            tensor = dense.tensors[name]
            fresh[name] = tensor.masked_fill(tensor.abs() < tensor.abs().float().median(), 0.0)
    return dense.evolve(fresh)


def _heal(
    dense: Checkpoint, light: Checkpoint, how: BlockHealing = HOW, **more: Any
) -> tuple[Healed, Checkpoint]:
    skeletons = Skeleton(dense), Skeleton(light, dtype=torch.float32)
    healed = heal_blocks(*skeletons, WINDOWS.tokens, how, **more)
    return healed, light.evolve(healed.weights)


@pytest.mark.parametrize("target", ["dense", "block"])
@pytest.mark.parametrize("arch", sorted(tiny_configs))
def test_every_block_comes_nearer_and_no_zero_wakes(arch: str, target: Any) -> None:
    dense = tiny_checkpoint(arch)
    light = pruned(dense)
    healed, after = _heal(dense, light, replace(HOW, target=target, epochs=6))
    curves = zip(
        healed.curves["block_error_before"], healed.curves["block_error_after"], strict=True
    )
    assert all(0 < nearer < far for far, nearer in curves)
    for name in block_matrices(dense):
        assert torch.equal(after.tensors[name] == 0, light.tensors[name] == 0), name
        assert not torch.equal(after.tensors[name], light.tensors[name]), name


def test_ranks_without_windows_follow(on_three: Any) -> None:
    dense = tiny_checkpoint()
    light = pruned(dense)
    how = replace(HOW, batch_size=1, heldout=1)

    def heal(rank: int = 0) -> Healed:
        skeletons = Skeleton(dense), Skeleton(light, dtype=torch.float32)
        return heal_blocks(*skeletons, WINDOWS.tokens[:3], how)  # the last rank has none

    alone = light.evolve(heal().weights).id
    assert [light.evolve(each.weights).id for each in on_three(heal)] == [alone] * 3


def test_norms_and_biases_learn_and_what_is_outside_the_blocks_does_not() -> None:
    dense = tiny_checkpoint("gpt2")
    light = pruned(dense)
    healed, after = _heal(dense, light)
    assert healed.weights.keys() == {name for name in light.refs if ".h." in name}
    moved = {name for name in healed.weights if not light.tensors[name].equal(after.tensors[name])}
    assert {"transformer.h.1.ln_1.weight", "transformer.h.2.mlp.c_fc.bias"} <= moved
    assert healed.trained_parameters == sum(after.tensors[name].numel() for name in healed.weights)


def test_what_it_was_given_stays_as_it_was() -> None:
    dense = tiny_checkpoint()
    light = pruned(dense)
    before = {name: tensor.clone() for name, tensor in light.tensors.items()}
    _heal(dense, light)
    assert all(torch.equal(tensor, before[name]) for name, tensor in light.tensors.items())


def test_an_exact_block_on_compressed_inputs_has_nothing_to_learn() -> None:
    dense = tiny_checkpoint()
    light = pruned(dense, 0)
    of_block, after_block = _heal(dense, light, replace(HOW, target="block"))
    of_dense, after_dense = _heal(dense, light, replace(HOW, target="dense"))
    assert of_block.curves["block_error_before"][1:] == [0.0, 0.0]
    assert of_block.steps == 2 * 3 * 3  # block 0, at two rates
    assert min(of_dense.curves["block_error_before"]) > 0.01
    assert of_dense.steps > of_block.steps
    untouched = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(after_block.tensors[untouched], dense.tensors[untouched])
    assert not torch.equal(after_dense.tensors[untouched], dense.tensors[untouched])


def _silenced(dense: Checkpoint, *blocks: int) -> Checkpoint:
    """The model with blocks that hand on what they are given, so that removing them is exact."""
    ends = [f"model.layers.{i}.{end}.weight" for i in blocks for end in _ENDS]
    return dense.evolve({name: torch.zeros_like(dense.tensors[name]) for name in ends})


def _without(dense: Checkpoint, gone: int) -> Checkpoint:
    refs = {}
    for name, ref in dense.refs.items():
        parts = name.split(".")
        if parts[1] == "layers":
            index = int(parts[2])
            if index == gone:
                continue
            parts[2] = str(index - (index > gone))
        refs[".".join(parts)] = ref
    return Checkpoint({**dense.config, "num_hidden_layers": 2}, refs, dense.files)


_ENDS = ("self_attn.o_proj", "mlp.down_proj")


@pytest.mark.parametrize("target", ["dense", "block"])
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_block_stands_for_those_gone_after_it(gone: int, target: Any) -> None:
    how = replace(HOW, target=target)
    kept = [index for index in range(3) if index != gone]
    silent = _silenced(tiny_checkpoint(), gone)
    healed, _ = _heal(silent, _without(silent, gone), how, kept_layers=kept)
    assert healed.curves["block_error_before"] == pytest.approx([0.0, 0.0], abs=1e-10)
    dense = tiny_checkpoint()
    healed, _ = _heal(dense, _without(dense, gone), how, kept_layers=kept)
    before, after = healed.curves["block_error_before"], healed.curves["block_error_after"]
    bridging = max(gone - 1, 0)
    assert before[bridging] > 0.1
    assert after[bridging] < before[bridging]


@pytest.mark.parametrize("kept", [None, (0, 1, 2)])
def test_nobody_knowing_which_blocks_are_left_is_refused(kept: Any) -> None:
    dense = tiny_checkpoint()
    with pytest.raises(SettingError, match=r"has 2 blocks where the dense one has 3.*'full'"):
        _heal(dense, _without(dense, 1), kept_layers=kept)


def test_blocks_that_are_narrower_inside_heal_too() -> None:
    dense = tiny_checkpoint("llama")
    rows = {"gate_proj": 0, "up_proj": 0, "down_proj": 1}
    fresh: dict[str, Tensor] = {}
    for name, tensor in dense.tensors.items():
        for part, axis in rows.items():
            if part in name:
                fresh[name] = tensor.narrow(axis, 0, 48)
    light = dense.evolve(fresh, config={"intermediate_size": 48})
    healed, after = _heal(dense, light)
    assert healed.curves["block_error_after"] < healed.curves["block_error_before"]
    assert {name: ref.shape for name, ref in after.refs.items()} == {
        name: ref.shape for name, ref in light.refs.items()
    }


def test_codes_stay_and_what_is_around_them_learns() -> None:
    dense = tiny_checkpoint()
    name = "model.layers.1.mlp.up_proj.weight"
    codes = Quantized(torch.ones(64, 32, dtype=torch.int8), torch.ones(64, 2) / 32, bits=4)
    light = dense.evolve({name: codes})
    healed, after = _heal(dense, light)
    assert name not in healed.weights
    assert after.refs[name] is codes
    assert healed.curves["block_error_after"][1] < healed.curves["block_error_before"][1]


def test_a_step_too_far_is_not_kept() -> None:
    dense = tiny_checkpoint()
    light = pruned(dense)
    healed, after = _heal(dense, light, replace(HOW, learning_rate=30.0, patience=1))
    assert after.id == light.id
    assert healed.curves["block_error_after"] == healed.curves["block_error_before"]
    # One epoch of three steps a rate: three rates, then two, then one.
    assert healed.steps == (3 + 2 + 1) * 3


def test_a_rate_that_is_too_high_falls_until_it_gains_and_stays_there() -> None:
    dense = tiny_checkpoint()
    light = pruned(dense)
    how = replace(HOW, learning_rate=0.04, epochs=6)
    healed, _ = _heal(dense, light, how)
    before, after = healed.curves["block_error_before"], healed.curves["block_error_after"]
    assert all(nearer < far for far, nearer in zip(before, after, strict=True))
    rates = healed.curves["block_learning_rate"]
    assert rates[0] in (0.01, 0.0025)
    assert list(rates) == sorted(rates, reverse=True)


def test_few_blocks_look_for_a_rate_that_is_better_still() -> None:
    dense = tiny_checkpoint()
    healed, _ = _heal(dense, pruned(dense))
    assert healed.curves["block_learning_rate"] == [1e-3] * 3
    assert healed.steps == (2 + 2 + 1) * 3 * 3


def test_the_windows_kept_out_teach_nothing() -> None:
    dense = tiny_checkpoint()
    how = replace(HOW, epochs=1)
    first, after = _heal(dense, pruned(dense), how)
    tokens = torch.cat([WINDOWS.tokens[:-3], tiny_windows(3, seed=5).tokens])
    skeletons = Skeleton(dense), Skeleton(pruned(dense), dtype=torch.float32)
    other = heal_blocks(*skeletons, tokens, how)
    assert first.curves != other.curves
    others = pruned(dense).evolve(other.weights)
    assert all(after.tensors[name].equal(others.tensors[name]) for name in first.weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_come_back_in_the_dtype_they_are_stored_in(dtype: torch.dtype) -> None:
    dense = tiny_checkpoint()
    light = pruned(dense.evolve({name: t.to(dtype) for name, t in dense.tensors.items()}))
    healed, after = _heal(dense, light)
    assert {value.dtype for value in healed.weights.values()} == {dtype}
    again, _ = _heal(dense, after, replace(HOW, learning_rate=1e-9, epochs=1))
    # What was judged is what is stored: judged anew, it is what it was.
    assert again.curves["block_error_before"] == healed.curves["block_error_after"]


def test_narrow_products_heal_as_well() -> None:
    dense = tiny_checkpoint()
    light = pruned(dense)
    exact, _ = _heal(dense, light)
    narrow, _ = _heal(dense, light, replace(HOW, autocast=torch.bfloat16))
    found = narrow.curves["block_error_after"]
    assert found != exact.curves["block_error_after"]
    assert found == pytest.approx(exact.curves["block_error_after"], rel=0.05)


def test_the_seed_decides_and_global_random_state_does_not() -> None:
    dense = tiny_checkpoint()
    ids = []
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        ids.append(_heal(dense, pruned(dense), replace(HOW, seed=seed))[1].id)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(1)
    assert ids[0] == ids[1] != ids[2]


def test_a_loss_that_runs_away_names_the_block_and_the_setting() -> None:
    dense = tiny_checkpoint()
    with pytest.raises(
        NumericsError, match=r"in model\.layers\.0.* is (nan|inf); lower learning_rate, now 1e\+30"
    ):
        _heal(dense, pruned(dense), replace(HOW, learning_rate=1e30))


@pytest.mark.parametrize("target", ["dense", "block"])
def test_broken_off_it_goes_on_to_the_same_bytes(target: Any) -> None:
    dense = tiny_checkpoint()
    how = replace(HOW, target=target)
    unbroken, whole = _heal(dense, pruned(dense), how)
    place, heard = Place(), list[int]()

    with pytest.raises(Stopped):
        _heal(dense, pruned(dense), how, unfinished=place, announce=stop_at(2))
    healed, after = _heal(
        dense, pruned(dense), how, unfinished=place, announce=lambda done, total: heard.append(done)
    )
    assert after.id == whole.id
    assert (healed.steps, healed.curves) == (unbroken.steps, unbroken.curves)
    assert heard == [1, 2, 2, 2, 2, 3]  # three epochs of the last block, and none of the others


def test_its_memory_grows_with_what_it_will_hold() -> None:
    dense = tiny_checkpoint()
    alone = block_bytes(dense, pruned(dense), WINDOWS, batch_size=1)
    assert alone > dense.num_bytes
    assert block_bytes(dense, pruned(dense), WINDOWS, batch_size=2) > alone
    longer = Windows(tiny_windows(8, 32).tokens, "longer")
    assert block_bytes(dense, pruned(dense), longer, batch_size=1) > alone
