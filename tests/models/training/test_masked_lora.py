import pytest
import torch
from tiny import tiny_configs, tiny_model, tiny_windows
from torch import Tensor
from transformers import PreTrainedModel

from birdbone.models.blocks.empty_model import find_blocks
from birdbone.models.blocks.linears import find_linears
from birdbone.models.training.masked_lora import MaskedLora, _MaskedProduct, adapters, attach

ARCHS = sorted(tiny_configs)


def _modules(model: PreTrainedModel) -> list[str]:
    path, blocks = find_blocks(model)
    every = [x for i, b in enumerate(blocks) for x in find_linears(b, f"{path}.{i}.")]
    return [linear.name for linear in every if linear.expert is None]


def _pruned(arch: str) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A model every second linear of which is half zeros, and copies of the linears' weights."""
    model = tiny_model(arch)
    generator = torch.Generator().manual_seed(1)
    for name in _modules(model)[::2]:
        weight = model.get_parameter(f"{name}.weight")
        weight.data[torch.rand(weight.shape, generator=generator) < 0.5] = 0.0
    names = [f"{name}.weight" for name in _modules(model)]
    return model, {name: model.get_parameter(name).detach().clone() for name in names}


def _adapted(model: PreTrainedModel, *, seed: int = 0, trained: bool = False) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    adapted = attach(model, _modules(model), rank=4, alpha=8.0, generator=generator)
    if trained:
        for module in adapted.modules():
            if isinstance(module, MaskedLora):
                up = module.lora_B["default"].weight
                up.data = torch.randn(up.shape, generator=generator) * 0.1
    return adapted


def _logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(tiny_windows().tokens, use_cache=False).logits


@pytest.mark.parametrize("arch", ARCHS)
def test_merging_is_exact_and_wakes_no_zero(arch: str) -> None:
    model, weights = _pruned(arch)
    before = _logits(model)
    adapted = _adapted(model, trained=True)
    trained = _logits(adapted)
    merged = tiny_model(arch)
    found = {f"{name}.weight": each for name, each in adapters(adapted).items()}
    assert found.keys() == weights.keys()
    for name, old in weights.items():
        new = found[name].added_to(old)
        assert torch.equal(new == 0, old == 0), name
        assert not torch.equal(new, old), name
        merged.get_parameter(name).data = new
    # float32 rounding: the adapter's product is summed in another order once it is merged.
    torch.testing.assert_close(_logits(merged), trained, rtol=1e-4, atol=1e-4)
    assert (trained - before).abs().max() > 0.01


@pytest.mark.parametrize("arch", ARCHS)
def test_fresh_adapters_change_nothing(arch: str) -> None:
    model, _ = _pruned(arch)
    before = _logits(model)
    torch.testing.assert_close(_logits(_adapted(model)), before, rtol=1e-5, atol=1e-5)


def test_only_adapters_of_the_named_linears_learn() -> None:
    model = tiny_model("mixtral")
    names = _modules(model)
    adapted = _adapted(model)
    learning = {name for name, each in adapted.named_parameters() if each.requires_grad}
    sides = ("lora_A.default.weight", "lora_B.default.weight")
    wrapped = [f"model.{name}" for name in names]
    assert learning == {f"{name}.{side}" for name in wrapped for side in sides}


def test_the_start_comes_from_the_generator_alone() -> None:
    models = [tiny_model() for _ in range(3)]
    state = torch.get_rng_state()
    first, same, other = (
        _adapted(model, seed=seed).state_dict()
        for model, seed in zip(models, (3, 3, 4), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), state)
    drawn = [name for name in first if "lora_A" in name]
    assert drawn
    assert all(torch.equal(first[name], same[name]) for name in drawn)
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


@pytest.mark.parametrize("only_mask", [False, True])
def test_gradients_are_those_of_the_masked_weight(only_mask: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight = draw(5, 6) * (draw(5, 6) > 0)
    leaves = [draw(2, 3, 6), draw(5, 2), draw(2, 6)]
    ours, plain = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    x, up, down = ours
    found = _MaskedProduct.apply(x, weight != 0 if only_mask else weight, up, down, 2.0)
    y, up, down = plain
    below = 0.0 if only_mask else weight
    expected = y @ (below + 2.0 * (weight != 0) * (up @ down)).T
    torch.testing.assert_close(found, expected)
    slope = draw(*expected.shape)
    found.backward(slope)
    expected.backward(slope)
    for mine, reference in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad)


def test_under_autocast_products_are_narrow_and_gradients_as_wide_as_what_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 6, generator=generator) * (torch.rand(5, 6, generator=generator) > 0.5)
    x, up, down = (
        torch.randn(shape, generator=generator).requires_grad_()
        for shape in ((3, 6), (5, 2), (2, 6))
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _MaskedProduct.apply(x, weight, up, down, 2.0)
    assert found.dtype == torch.bfloat16
    found.sum().backward()
    narrow = [leaf.grad for leaf in (x, up, down)]
    for leaf in (x, up, down):
        leaf.grad = None
    _MaskedProduct.apply(x, weight, up, down, 2.0).sum().backward()
    for mine, leaf in zip(narrow, (x, up, down), strict=True):
        assert mine is not None
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, leaf.grad, rtol=0.05, atol=0.1)
