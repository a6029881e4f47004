"""The record of a model that was pruned, healed and quantised, as `birdbone.json` holds it."""

from __future__ import annotations

from typing import Any

ROLES = ("self_attn.q_proj", "mlp.down_proj")


def step(link: str, seconds: float = 30.0, **more: Any) -> dict[str, Any]:
    """One entry of ``steps``."""
    plain = {"settings": {}, "peak_bytes": 5e8, "peak_of": "process", "metrics": {}}
    return {**plain, "link": link, "seconds": seconds, "within": None, "checkpoint": "x", **more}


def wave(number: int, *, kept: bool, rise: float) -> dict[str, Any]:
    """The entry of a wave inside the link waves."""
    figures = {"perplexity": 20.0 * (1 + rise), "perplexity_error": 0.5, "rise": rise}
    more = {f"elsewhere_{name}": value * 1.2 for name, value in figures.items()}
    metrics = {
        "wave": number,
        "kept": kept,
        "reason": "within the limit" if kept else "above the limit",
        "bytes": 2e8 / number,
        "bytes_left": 1 / number,
        "rise_error": 0.01,
        "elsewhere_rise_error": 0.02,
        **figures,
        **more,
    }
    settings = {"share": 0.1, "healing": 1}
    return step("wave", within="waves", metrics=metrics, settings=settings)


def candidate(name: str, num_bytes: int, rise: float, *, kept: bool) -> dict[str, Any]:
    """The entry of a candidate of a budget."""
    figures = {"perplexity": 20.0 * (1 + rise), "rise": rise, "rise_error": 0.01}
    metrics = {
        "candidate": name,
        "kept": kept,
        "predicted_bytes": num_bytes,
        "reason": "smallest rise" if kept else "larger rise",
        **figures,
        **{f"elsewhere_{key}": value for key, value in figures.items()},
    }
    return step("candidate", within="select", metrics=metrics)


def layers(blocks: int = 3) -> list[dict[str, Any]]:
    """An entry for each linear, the errors rising with the block, beside an embedding."""
    linears = [
        {
            "name": f"model.layers.{block}.{role}",
            "shape": [32, 32],
            "kind": "int4 in groups of 32",
            "bits_per_weight": 4.5,
            "relative_error": 0.001 * (1 + block) * (1 + place),
            "sensitivity": 0.01 * (1 + block),
            "width": 1.0 if block else 0.75,
        }
        for block in range(blocks)
        for place, role in enumerate(ROLES)
    ]
    embedding = {"name": "model.embed_tokens", "shape": [128, 32], "kind": "bfloat16"}
    return [{**embedding, "bits_per_weight": 16.0}, *linears]


def worst_window(**more: Any) -> dict[str, Any]:
    """A window with the words around its worst token."""
    figures = {"window": 3, "mean_kl": 0.1234, "rise": 0.25, "measured_on": "saved model"}
    return {**figures, "before": "It was a dark and", "token": " stormy", "after": " night", **more}


def bench() -> dict[str, Any]:
    """What ``birdbone bench`` writes of a folder and a GGUF file."""
    figures = {
        "weight_bytes": 8e7,
        "perplexity": 22.0,
        "prefill_tokens_per_second": 512.25,
        "decode_tokens_per_second": 20.5,
        "peak_bytes": 9e8,
    }
    models = [
        {"model": name, "runtime": runtime, "figures": figures, "environment": {"device": "x86"}}
        for name, runtime in (("light", "transformers"), ("light.gguf", "llama.cpp"))
    ]
    return {"measured_on": {"rounds": "3", "speed": "128 tokens read"}, "models": models}


def record(**more: Any) -> dict[str, Any]:
    """The whole record."""
    dense = {"weight_bytes": 2.5e8, "perplexity": 20.0, "perplexity_error": 1.0}
    light = {
        "weight_bytes": 8e7,
        "perplexity": 22.0,
        "perplexity_error": 1.1,
        "rise": 0.1,
        "rise_error": 0.01,
        "elsewhere_perplexity": 24.0,
        "elsewhere_rise": 0.2,
        "elsewhere_rise_error": 0.03,
    }
    healing = {"training_loss": [3.0, 2.0, 1.5], "heldout_loss": [2.5, 2.1]}
    return {
        "source": "someone/a-model",
        "steps": [
            step("load", settings={"model": "someone/a-model"}),
            wave(1, kept=True, rise=0.05),
            wave(2, kept=False, rise=0.9),
            step("waves", 200.0),
            step("heal", 90.0, metrics=healing),
            step("quantize", metrics={"worst_layer": "model.layers.2.mlp.down_proj"}),
        ],
        "layers": layers(),
        "samples": [
            {
                "origin": "elsewhere",
                "prompt": "The cat",
                "dense": " sat on a mat",
                "light": " sat on the dog",
            }
        ],
        "worst_windows": {"heldout": [worst_window()], "elsewhere": [worst_window(rise=-0.05)]},
        "texts": {"heldout": {"text": "a book", "windows": 4, "length": 512}},
        "figures": {"dense": dense, "light": light},
        "remarks": ["A remark about <text>."],
        "measured_on": {"device": "x86_64", "elsewhere_windows": "4 of 512 tokens"},
        "versions": {"torch": "2.13.0"},
        "birdbone": "9.9.9",
        "dense": "d0" * 32,
        "checkpoint": "c1" * 32,
        "chain": ["a1" * 32, "b2" * 32],
        "files": {"model.safetensors": {"bytes": 80_000_000, "sha256": "ab" * 32}},
        **more,
    }
