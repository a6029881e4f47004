"""Standalone script: open saved folders with plain transformers and measure them.

`standalone` runs it in a fresh, isolated interpreter. It imports nothing of this package, so it
measures what any user of the folder gets. The request names the folder, the dense one to compare
with or null, windows of held-out text and of text from elsewhere or null, prompts, dtype, device
and counts. Progress goes to stdout as lines ``@ done total label``.

Order matters: size and peak memory first, with nothing else loaded; then the dense model joins,
both are timed in turns, and both read every window exactly once. Figures on text from elsewhere
have names that begin with ``elsewhere_``.
"""

from __future__ import annotations

import math
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

_LOGIT_BYTES = 128 << 20  # of float32 logits in one forward; decides the batch size
_ROWS = 256  # positions whose log-probabilities are held at a time
_QUANTILES = (0.5, 0.99, 0.999)  # of the KL divergence per token
_PROMPTS = 4  # texts that both models go on from, and tokens of each
_PROMPT_TOKENS = 32
_WORST = 3  # windows of a text with the largest KL divergence that are named
_STATUS = Path("/proc/self/status")
_GRID = ("weight_scale", "weight_zero_point", "weight_shape", "weight_packed")


@torch.inference_mode()
def measure(request: dict[str, Any]) -> dict[str, Any]:
    """The figures of one folder, and the dense one's on the same tokens where one is named."""
    tokens = torch.tensor(request["tokens"]) if request["tokens"] else None
    models = {"light": _load(request["folder"], request)}
    prompt = _prompt(models["light"], tokens, request)
    figures: dict[str, dict[str, float]] = {"light": _alone(models["light"], prompt, request)}
    if request["dense"]:
        models["dense"] = _load(request["dense"], request)
        _timed(models["dense"], prompt, request)
        figures["dense"] = {}
    worst: dict[str, list[dict[str, float]]] = {}
    samples: dict[str, list[list[int]]] = {}
    if request["compare"]:
        found = [_speeds(models, prompt, request)]
        if tokens is not None:
            scored, worst["heldout"] = _score(models, tokens.to(request["device"]))
            found.append(scored)
        if request["elsewhere"]:
            elsewhere = torch.tensor(request["elsewhere"]).to(request["device"])
            scored, worst["elsewhere"] = _score(models, elsewhere)
            found.append(_from_elsewhere(scored))
        samples = {name: _continuations(model, request) for name, model in models.items()}
        for name in figures:
            figures[name].update(
                {key: value for each in found for key, value in each[name].items()}
            )
    decoded = {}
    if request["dense"] and request["compare"] and tokens is not None:
        decoded = {name: _decoded(model, tokens, request) for name, model in models.items()}
    return {
        "figures": figures,
        "decoded": decoded,
        "samples": samples,
        "worst": worst,
        "environment": _environment(request["device"]),
    }


def _alone(model: nn.Module, prompt: Tensor, request: dict[str, Any]) -> dict[str, float]:
    """Size and peak memory, with nothing else loaded; the run also warms what it touches.

    Packed weights can be counted only after the first forward, 4-bit ones only before it.
    """
    counts = None if _is_packed(model) else _count(model)
    _timed(model, prompt, request)
    peak = _peak_bytes(request["device"])
    size = sum(path.stat().st_size for path in Path(request["folder"]).glob("*.safetensors"))
    return {"weight_bytes": size, **(counts or _count(model)), "peak_bytes": peak}


def _load(folder: str, request: dict[str, Any]) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, request["dtype"]),
        device_map=request["device"],
        trust_remote_code=request["trust_remote_code"],
        local_files_only=True,
    )
    return model.eval()


def _is_packed(model: Any) -> bool:
    config = getattr(model.config, "quantization_config", None)
    method = getattr(config, "quant_method", None)
    return getattr(method, "value", method) == "compressed-tensors"


def _count(model: nn.Module) -> dict[str, float]:
    """Parameters, and how many are not zero; tied ones once, a grid's scales not at all."""
    parameters = nonzero = 0
    repeated = _repeated_head(model)
    for name, parameter in model.named_parameters():
        if not name.endswith(_GRID) and parameter is not repeated:
            weight = _readable(parameter)
            parameters += weight.numel()
            nonzero += int(torch.count_nonzero(weight))
    return {"parameters": parameters, "nonzero": nonzero}


def _repeated_head(model: Any) -> Any:
    """The head's weight if it is tied but a tensor of its own, as after quantised ones are read."""
    config, head = model.config.get_text_config(decoder=True), model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    tied = getattr(config, "tie_word_embeddings", False)
    return None if not tied or weight is model.get_input_embeddings().weight else weight


def _readable(parameter: Tensor) -> Tensor:
    """A parameter with a place for every weight; bitsandbytes keeps two 4-bit codes in a byte."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.data
    from bitsandbytes.functional import dequantize_4bit

    values: Tensor = dequantize_4bit(parameter.data, state)
    return values


def _prompt(model: Any, tokens: Tensor | None, request: dict[str, Any]) -> Tensor:
    """Real tokens where there are some, ``[1, length]``, with room left for those decoded."""
    config = model.config.get_text_config(decoder=True)
    room = max(1, min(request["prefill_tokens"], _positions(model) - request["decode_tokens"]))
    flat = torch.arange(room) % config.vocab_size if tokens is None else tokens.reshape(-1)
    return flat[:room].unsqueeze(0).to(request["device"])


def _positions(model: Any) -> int:
    """The length of the model's context."""
    config = model.config.get_text_config(decoder=True)
    return int(getattr(config, "max_position_embeddings", None) or sys.maxsize)


def _speeds(
    models: dict[str, nn.Module], prompt: Tensor, request: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Median tokens/s of reading the prompt and of greedy decoding after it, in turns."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(request["repeats"]):
        for name, model in models.items():
            runs[name].append(_timed(model, prompt, request))
    return {name: _per_second(seconds, prompt, request) for name, seconds in runs.items()}


def _per_second(
    seconds: list[tuple[float, float]], prompt: Tensor, request: dict[str, Any]
) -> dict[str, float]:
    prefill, decode = zip(*seconds, strict=True)
    return {
        "prefill_tokens_per_second": prompt.shape[1] / statistics.median(prefill),
        "decode_tokens_per_second": request["decode_tokens"] / statistics.median(decode),
    }


def _timed(model: nn.Module, prompt: Tensor, request: dict[str, Any]) -> tuple[float, float]:
    start, text = _now(request["device"]), prompt
    output = _begun(model, prompt)
    middle = _now(request["device"])
    for _ in range(request["decode_tokens"]):
        _check_finite(output.logits)
        text = torch.cat((text, output.logits[:, -1:].argmax(-1)), dim=1)
        output = _continued(model, output, text)
    return middle - start, _now(request["device"]) - middle


def _decoded(model: nn.Module, tokens: Tensor, request: dict[str, Any]) -> list[list[int]]:
    """Greedy continuations of the beginnings of some windows.

    Rows of ``decode_tokens`` ids.
    """
    room = _prompt(model, tokens, request).shape[1]
    prompts = tokens[:_PROMPTS, : min(room, _PROMPT_TOKENS)].to(request["device"])
    return _greedy(model, prompts, request["decode_tokens"])


def _continuations(model: Any, request: dict[str, Any]) -> list[list[int]]:
    """Greedy continuations of the prompts, in their order; those of one length run together.

    Rows of ``sample_tokens`` ids, fewer where the model's context ends.
    """
    prompts: list[list[int]] = request["prompts"]
    rows: list[list[int]] = [[] for _ in prompts]
    for length in sorted({len(prompt) for prompt in prompts}):
        places = [place for place, prompt in enumerate(prompts) if len(prompt) == length]
        together = torch.tensor([prompts[place] for place in places]).to(request["device"])
        count = max(0, min(request["sample_tokens"], _positions(model) - length))
        for place, row in zip(places, _greedy(model, together, count), strict=True):
            rows[place] = row
    return rows


def _greedy(model: nn.Module, prompts: Tensor, count: int) -> list[list[int]]:
    """The ``count`` most likely tokens after each of the prompts ``[prompts, length]``."""
    output, text = _begun(model, prompts), prompts
    for place in range(count):
        text = torch.cat((text, output.logits[:, -1:].argmax(-1)), dim=1)
        if place + 1 < count:
            output = _continued(model, output, text)
    rows: list[list[int]] = text[:, prompts.shape[1] :].tolist()
    return rows


def _begun(model: nn.Module, prompt: Tensor) -> Any:
    """As in `run_folder`: the output for a prompt, with a cache where the model can make one."""
    try:
        return model(prompt, use_cache=True)
    except Exception:  # noqa: BLE001 - raised again below if the cache is not the reason
        return model(prompt, use_cache=False)


def _continued(model: nn.Module, output: Any, text: Tensor) -> Any:
    """As in `run_folder`: the output after the last token, from the cache or from the whole text.

    Without a usable cache, decoding computes the whole text for every token, which its speed shows.
    """
    cache = getattr(output, "past_key_values", None)
    if cache is not None:
        try:
            return model(text[:, -1:], past_key_values=cache, use_cache=True)
        except Exception:  # noqa: BLE001 - raised again below if the cache is not the reason
            cache = None
    return model(text, use_cache=False)


def _check_finite(logits: Tensor) -> None:
    if not torch.isfinite(logits[:, -1]).all():
        raise ValueError("its logits are NaN or infinite")


def _now(device: str) -> float:
    if device != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter()


def _peak_bytes(device: str) -> int:
    """Peak resident bytes of this process; on an accelerator, peak bytes of torch's allocator.

    Linux's own record is read: getrusage counts in what the parent held when it forked.
    """
    counted = getattr(torch.get_device_module(device), "max_memory_allocated", None)
    if counted is not None:
        return int(counted())
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _score(
    models: dict[str, nn.Module], tokens: Tensor
) -> tuple[dict[str, dict[str, float]], list[dict[str, float]]]:
    """Perplexities, KL(dense || light), and agreement, on tokens ``[windows, length]``.

    Also the windows with the largest mean KL divergence, the worst first.
    """
    sums = [_Sums() for _ in tokens]
    size = _batch_size(models["light"], tokens.shape[1])
    for start in range(0, len(tokens), size):
        batch = tokens[start : start + size]
        logits = {name: model(batch, use_cache=False).logits for name, model in models.items()}
        for row in range(len(batch)):
            theirs = logits["dense"][row] if "dense" in logits else None
            sums[start + row].add(batch[row], logits["light"][row], theirs)
        sys.stdout.write(f"@ {start + len(batch)} {len(tokens)} windows scored\n")
        sys.stdout.flush()
    return _summary(sums, tokens.shape[1] - 1), _worst(sums, tokens.shape[1] - 1)


def _from_elsewhere(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        side: {f"elsewhere_{name}": value for name, value in figures.items()}
        for side, figures in found.items()
    }


def _summary(sums: list[_Sums], predicted: int) -> dict[str, dict[str, float]]:
    """Figures of all windows of ``predicted`` tokens each; the dense part empty without one."""
    total = predicted * len(sums)
    light = _perplexity([each.light / predicted for each in sums])
    if not any(each.dense for each in sums):
        return {"light": light, "dense": {}}
    light |= _rise([(each.light - each.dense) / predicted for each in sums])
    light |= _divergence(torch.cat([part for each in sums for part in each.kl]))
    light["rms_dp"] = math.sqrt(sum(each.squared_dp for each in sums) / total)
    light["agreement"] = sum(each.agreed for each in sums) / total
    return {"light": light, "dense": _perplexity([each.dense / predicted for each in sums])}


def _worst(sums: list[_Sums], predicted: int) -> list[dict[str, float]]:
    """The windows with the largest mean KL divergence; none if there was no dense model.

    Each with its index, mean KL, rise of perplexity, and the position of its worst token.
    """
    kls = [torch.cat(each.kl) if each.kl else None for each in sums]
    means = [(float(kl.mean()), place) for place, kl in enumerate(kls) if kl is not None]
    ordered = sorted(means, key=lambda each: (-each[0], each[1]))[:_WORST]
    return [
        {
            "window": place,
            "mean_kl": mean,
            "rise": math.expm1((sums[place].light - sums[place].dense) / predicted),
            "position": int(torch.cat(sums[place].kl).argmax()) + 1,
        }
        for mean, place in ordered
    ]


def _divergence(kl: Tensor) -> dict[str, float]:
    """Mean, median and tail of ``kl`` ``[tokens]``: KL(dense || light) per token, in nats."""
    median, high, highest = kl.quantile(torch.tensor(_QUANTILES, dtype=kl.dtype)).tolist()
    mean = float(kl.mean())
    return {"mean_kl": mean, "median_kl": median, "kl_99": high, "kl_999": highest}


def _batch_size(model: Any, length: int) -> int:
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    return max(1, int(_LOGIT_BYTES // (4 * length * vocabulary)))


class _Sums:
    """Sums over one window, and the KL divergence of each of its tokens.

    Attributes:
        light, dense: negative log-likelihood of the window, nats.
        kl: KL(dense || light) per predicted token, nats, float64, in parts.
        squared_dp: sum of squared changes of the probability of the token that follows.
        agreed: number of tokens on which both models rank the same token first.
    """

    def __init__(self) -> None:
        self.light = self.dense = self.squared_dp = 0.0
        self.kl: list[Tensor] = []
        self.agreed = 0

    def add(self, tokens: Tensor, light: Tensor, dense: Tensor | None) -> None:
        """Take in one window's tokens ``[length]`` and logits ``[length, vocab_size]``."""
        for rows in _row_slices(len(tokens) - 1):
            after = tokens[1:][rows].unsqueeze(1)
            ours = light[rows].float().log_softmax(-1)
            self.light -= float(ours.gather(1, after).sum(dtype=torch.float64))
            if dense is not None:
                theirs = dense[rows].float().log_softmax(-1)
                wanted = theirs.gather(1, after)
                self.dense -= float(wanted.sum(dtype=torch.float64))
                self.agreed += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
                change = ours.gather(1, after).exp() - wanted.exp()
                self.squared_dp += float(change.square().sum(dtype=torch.float64))
                divergence = (theirs.exp() * (theirs - ours)).sum(-1, dtype=torch.float64)
                self.kl.append(divergence.cpu())


def _row_slices(count: int) -> Iterator[slice]:
    for start in range(0, count, _ROWS):
        yield slice(start, min(start + _ROWS, count))


def _perplexity(means: list[float]) -> dict[str, float]:
    """exp of the mean NLL; its standard error from the windows' means (delta method)."""
    value = math.exp(statistics.fmean(means))
    if not math.isfinite(value):
        raise ValueError(f"its perplexity is {value}")
    if len(means) < 2:
        return {"perplexity": value}
    spread = statistics.stdev(means) / math.sqrt(len(means))
    return {"perplexity": value, "perplexity_error": value * spread}


def _rise(differences: list[float]) -> dict[str, float]:
    """Light perplexity over dense, minus one, and its standard error, from paired differences.

    Args:
        differences: of each window, mean NLL of the light model minus that of the dense one.
    """
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return {"rise": math.expm1(mean)}
    spread = statistics.stdev(differences) / math.sqrt(len(differences))
    return {"rise": math.expm1(mean), "rise_error": math.exp(mean) * spread}


def _environment(device: str) -> dict[str, str]:
    module = torch.get_device_module(device)
    named = module.get_device_name() if hasattr(module, "get_device_name") else platform.machine()
    return {
        "device": f"{named}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


answer = measure  # called by `standalone`
