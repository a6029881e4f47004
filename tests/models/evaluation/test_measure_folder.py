"""The program that proves a folder: alone in its process, and right about what it measures."""

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from torch import Tensor

from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.evaluation import measure_folder as rescore
from birdbone.models.writing.folder import write_model

LENGTH = 16


def requested(tmp_path: Path, **more: Any) -> dict[str, Any]:
    """A request for two tiny folders, the light one with another seed."""
    for seed, name in enumerate(("dense", "light")):
        (tmp_path / name).mkdir()
        write_model(tiny_checkpoint(seed=seed), tmp_path / name, max_shard_bytes=1 << 30)
    return {
        "folder": str(tmp_path / "light"),
        "dense": str(tmp_path / "dense"),
        "tokens": tiny_windows(3, LENGTH).tokens.tolist(),
        "elsewhere": None,
        "compare": True,
        "dtype": "float32",
        "device": "cpu",
        "prefill_tokens": 8,
        "decode_tokens": 4,
        "repeats": 1,
        "trust_remote_code": False,
        "prompts": [],
        "sample_tokens": 6,
        "result": str(tmp_path / "result.json"),
        **more,
    }


def log_probabilities(seed: int) -> Tensor:
    """Float64 ``[windows, length - 1, vocab_size]``, computed here."""
    model = Skeleton(tiny_checkpoint(seed=seed)).fill().eval()
    with torch.no_grad():
        logits = model(tiny_windows(3, LENGTH).tokens, use_cache=False).logits
    return logits[:, :-1].double().log_softmax(-1)


def perplexity(found: Tensor) -> tuple[float, float]:
    """The value and its standard error, from the textbook."""
    after = tiny_windows(3, LENGTH).tokens[:, 1:].unsqueeze(2)
    means = -found.gather(2, after).mean((1, 2))
    value = math.exp(float(means.mean()))
    return value, value * float(means.std()) / math.sqrt(3)


def test_figures_equal_a_computation_in_float64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescore, "_ROWS", 4)
    figures = rescore.measure(requested(tmp_path))["figures"]
    dense, light = log_probabilities(0), log_probabilities(1)
    for name, found in (("dense", dense), ("light", light)):
        value, error = perplexity(found)
        assert figures[name]["perplexity"] == pytest.approx(value, rel=1e-5)
        assert figures[name]["perplexity_error"] == pytest.approx(error, rel=1e-4)
    kl = (dense.exp() * (dense - light)).sum(-1)
    assert figures["light"]["mean_kl"] == pytest.approx(float(kl.mean()), rel=1e-4)
    for name, fraction in (("median_kl", 0.5), ("kl_99", 0.99), ("kl_999", 0.999)):
        wanted = numpy.quantile(kl.flatten().numpy(), fraction)
        assert figures["light"][name] == pytest.approx(float(wanted), rel=1e-4)
    after = tiny_windows(3, LENGTH).tokens[:, 1:].unsqueeze(2)
    change = light.gather(2, after).exp() - dense.gather(2, after).exp()
    assert figures["light"]["rms_dp"] == pytest.approx(
        float(change.square().mean().sqrt()), rel=1e-3
    )
    agreed = (dense.argmax(-1) == light.argmax(-1)).double().mean()
    assert figures["light"]["agreement"] == pytest.approx(float(agreed))
    assert "mean_kl" not in figures["dense"]


def test_the_rise_is_paired_and_text_from_elsewhere_has_figures_of_its_own(tmp_path: Path) -> None:
    request = requested(tmp_path)
    alone = rescore.measure(request)["figures"]
    other = tiny_windows(2, 24, seed=3).tokens.tolist()
    both = rescore.measure({**request, "elsewhere": other})["figures"]
    swapped = rescore.measure({**request, "tokens": other})["figures"]
    for name in ("dense", "light"):
        for key, value in swapped[name].items():
            if key.startswith(("perplexity", "rise", "mean_kl", "kl_99", "rms_dp", "agreement")):
                assert both[name][f"elsewhere_{key}"] == pytest.approx(value, rel=1e-5), key
        assert both[name]["perplexity"] == alone[name]["perplexity"]
    dense, light = log_probabilities(0), log_probabilities(1)
    after = tiny_windows(3, LENGTH).tokens[:, 1:].unsqueeze(2)
    apart = (dense - light).gather(2, after).mean((1, 2))
    rise = math.expm1(float(apart.mean()))
    assert alone["light"]["rise"] == pytest.approx(rise, rel=1e-4)
    error = (1 + rise) * float(apart.std()) / math.sqrt(3)
    assert alone["light"]["rise_error"] == pytest.approx(error, rel=1e-4)


def test_the_batch_size_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = requested(tmp_path)
    whole = rescore.measure(request)["figures"]
    monkeypatch.setattr(rescore, "_LOGIT_BYTES", 1)
    single = rescore.measure(request)["figures"]
    for name in ("dense", "light"):
        assert single[name]["perplexity"] == pytest.approx(whole[name]["perplexity"], rel=1e-5)


def greedy(seed: int, prompt: list[int], count: int) -> list[int]:
    """The most likely tokens after a prompt, the whole text computed again for each."""
    model = Skeleton(tiny_checkpoint(seed=seed)).fill().eval()
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_prompts_of_any_length_are_continued_greedily_by_both_models(tmp_path: Path) -> None:
    prompts = [[5, 6, 7], [40, 41], [9, 8, 7], list(range(4, 64))]
    found = rescore.measure(requested(tmp_path, prompts=prompts))["samples"]
    for seed, side in enumerate(("dense", "light")):
        # The context of 64 tokens has room for 4 after the last prompt.
        wanted = [greedy(seed, each, min(6, 64 - len(each))) for each in prompts]
        assert found[side] == wanted


def test_the_windows_with_the_largest_divergence_are_named_worst_first(tmp_path: Path) -> None:
    found = rescore.measure(requested(tmp_path))["worst"]["heldout"]
    dense, light = log_probabilities(0), log_probabilities(1)
    kl = (dense.exp() * (dense - light)).sum(-1)
    assert [each["window"] for each in found] == kl.mean(1).argsort(descending=True).tolist()
    worst = found[0]["window"]
    assert found[0]["mean_kl"] == pytest.approx(float(kl[worst].mean()), rel=1e-4)
    assert found[0]["position"] == int(kl[worst].argmax()) + 1
    after = tiny_windows(3, LENGTH).tokens[worst, 1:].unsqueeze(1)
    apart = (dense[worst] - light[worst]).gather(1, after).mean()
    assert found[0]["rise"] == pytest.approx(math.expm1(float(apart)), rel=1e-3)


def test_a_folder_alone_has_no_worst_windows(tmp_path: Path) -> None:
    assert rescore.measure(requested(tmp_path, dense=None))["worst"] == {"heldout": []}


def test_a_model_gone_wrong_is_an_error_not_a_figure(tmp_path: Path) -> None:
    request = requested(tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    broken = tiny_checkpoint().evolve({name: torch.full((64, 32), math.nan)})
    write_model(broken, tmp_path / "light", max_shard_bytes=1 << 30)
    with pytest.raises(ValueError, match="logits are NaN or infinite"):
        rescore.measure(request)


def test_the_prompt_keeps_to_the_context(tmp_path: Path) -> None:
    """The tiny models hold 64 positions; a longer prompt would run past them."""
    request = requested(tmp_path, dense=None, prefill_tokens=1000)
    model = rescore._load(request["folder"], request)
    tokens = tiny_windows(3, 50).tokens
    prompt = rescore._prompt(model, tokens, request)
    assert torch.equal(prompt, tokens.reshape(1, -1)[:, :60])
