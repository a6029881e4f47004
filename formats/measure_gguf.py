"""Standalone script: open a GGUF file with llama.cpp and measure it.

`standalone` runs it in a fresh, isolated interpreter. It imports nothing of this package, so it
measures what any user of the file gets. The request names the file, windows of token ids of
held-out text and of text from elsewhere (or null), prompts, the number of threads and the counts.
Progress goes to stdout as lines ``@ done total label``. Figures on text from elsewhere have names
that begin with ``elsewhere_``.

llama.cpp's server does not return the probabilities of a prompt's tokens. Each window is therefore
decoded token by token: one token is requested at a time, a logit bias forces it to be the next
token of the text, and its probability before the bias is recorded. Tokens already processed stay in
the server's cache.
"""

from __future__ import annotations

import json
import math
import platform
import resource
import statistics
import sys
import urllib.request
from importlib import metadata
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_CERTAIN = 1000.0  # a logit bias larger than any logit
_SPARE_POSITIONS = 8  # context positions beyond the longest window


def measure_file(request: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one file: bytes, speed, peak memory and, given tokens, perplexity."""
    tokens: list[list[int]] = request["tokens"] or []
    elsewhere: list[list[int]] = request["elsewhere"] or []
    llama = Llama(request)
    figures: dict[str, float] = {
        "weight_bytes": sum(Path(part).stat().st_size for part in request["parts"])
    }
    prompt = _prompt(tokens, request, llama.positions - request["decode_tokens"])
    runs = [llama.timed(prompt, request["decode_tokens"]) for _ in range(request["repeats"])]
    prefill, decode = zip(*runs, strict=True)
    figures["prefill_tokens_per_second"] = statistics.median(prefill)
    figures["decode_tokens_per_second"] = statistics.median(decode)
    figures["peak_bytes"] = _peak_bytes()
    nll = _nats(llama, tokens)
    if tokens:
        figures.update(_perplexity(nll))
    if elsewhere:
        found = _perplexity(_nats(llama, elsewhere))
        figures.update({f"elsewhere_{name}": value for name, value in found.items()})
    return {
        "figures": {"light": figures},
        "nll": nll,
        "samples": {"light": [llama.continued(each, request) for each in request["prompts"]]},
        "environment": _environment(request["threads"]),
    }


class Llama:
    """The file, opened by llama.cpp."""

    def __init__(self, request: dict[str, Any]) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = request["file"]
        rows = [*(request["tokens"] or []), *(request["elsewhere"] or [])]
        longest = max((len(row) for row in rows), default=0)
        speed = request["prefill_tokens"] + request["decode_tokens"]
        prompt = max((len(row) for row in request["prompts"]), default=0)
        sample = prompt + request["sample_tokens"] if prompt else 0
        params.n_ctx = max(longest, speed, sample) + _SPARE_POSITIONS
        params.n_parallel, params.warmup, params.verbosity = 1, True, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
        self._server = xllamacpp.Server(params)
        self._vocabulary = request["vocabulary"]

    @property
    def positions(self) -> int:
        """Number of tokens in the context, at most what the model supports."""
        return int(self._asked("props")["default_generation_settings"]["n_ctx"])

    def timed(self, prompt: list[int], count: int) -> tuple[float, float]:
        """Return tokens/s of processing the prompt and of greedy decoding after it."""
        asked = {"prompt": prompt, "n_predict": count, "temperature": 0, "ignore_eos": True}
        found = self._completion({**asked, "cache_prompt": False})["timings"]
        return found["prompt_per_second"], found["predicted_per_second"]

    def continued(self, prompt: list[int], request: dict[str, Any]) -> str:
        """Return the greedy continuation of a prompt, up to the end of the text."""
        asked = {"prompt": prompt, "n_predict": request["sample_tokens"], "temperature": 0}
        return str(self._completion({**asked, "cache_prompt": False})["choices"][0]["text"])

    def log_probability(self, before: list[int], token: int) -> float:
        """Return the natural log-probability of ``token`` after the tokens ``before``."""
        return self.prediction(before, token)[0]

    def prediction(self, before: list[int], token: int) -> tuple[float, bool]:
        """Return that log-probability, and whether no other token is more probable."""
        found = self._after(before, wanted=token, listed=1)
        if found and found["id"] == token:
            return _number(found["logprob"]), found["top_logprobs"][0]["id"] == token
        # The server returns nothing for a token that is an incomplete character or ends the text.
        # Force another token then, and look the wanted one up among all alternatives.
        found = self._after(before, wanted=self.tokens("a")[-1], listed=self._vocabulary)
        every = found["top_logprobs"]
        logprob = next(each["logprob"] for each in every if each["id"] == token)
        return _number(logprob), every[0]["id"] == token

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """Return the tokens of a text, with those that begin one if ``special``."""
        asked = {"content": text, "add_special": special, "parse_special": True}
        found: list[int] = self._asked("tokenize", asked)["tokens"]
        return found

    def special_tokens(self) -> dict[str, str]:
        """Return the texts of the tokens that begin and end a text: ``bos`` and ``eos``."""
        found = self._asked("props")
        return {name: str(found.get(f"{name}_token") or "") for name in ("bos", "eos")}

    def continuation(self, before: list[int], *, count: int, stop: list[str]) -> str:
        """Return what follows by greedy decoding, at most ``count`` tokens, up to a stop text."""
        asked = {"prompt": before, "n_predict": count, "temperature": 0, "stop": stop}
        text: str = self._completion({**asked, "cache_prompt": True})["choices"][0]["text"]
        return text

    def _after(self, before: list[int], *, wanted: int, listed: int) -> dict[str, Any]:
        """Return the entry of the token that a bias forces to come next; empty if there is none."""
        asked = {"prompt": before, "n_predict": 1, "temperature": 0, "cache_prompt": True}
        bias = [[wanted, _CERTAIN]]
        choice = self._completion({**asked, "n_probs": listed, "logit_bias": bias})["choices"][0]
        content = (choice.get("logprobs") or {}).get("content") or [{}]
        found: dict[str, Any] = content[0]
        return found

    def _asked(self, about: str, words: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the server's reply from its port on this machine, bypassing any proxy."""
        request = urllib.request.Request(
            f"{self._server.listening_address}/{about}",
            None if words is None else json.dumps(words).encode(),
            {"Content-Type": "application/json"},
        )
        local = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with local.open(request, timeout=60) as reply:
            found: dict[str, Any] = json.load(reply)
        return found

    def _completion(self, asked: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._server.handle_completions(asked)
        if "choices" not in found:
            raise ValueError(f"llama.cpp answers {json.dumps(found)}")
        return found


def _prompt(tokens: list[list[int]], request: dict[str, Any], limit: int) -> list[int]:
    """Return tokens of the text if there are any, leaving room for those to be decoded."""
    room = max(1, min(request["prefill_tokens"], limit))
    flat = [token for row in tokens for token in row] or list(range(room))
    return [token % request["vocabulary"] for token in flat[:room]]


def _nats(llama: Llama, tokens: list[list[int]]) -> list[list[float]]:
    """Return the negative log-likelihood of every predicted token, window by window."""
    nats = []
    for done, row in enumerate(tokens, 1):
        nats.append([-llama.log_probability(row[:at], row[at]) for at in range(1, len(row))])
        sys.stdout.write(f"@ {done} {len(tokens)} windows scored by llama.cpp\n")
        sys.stdout.flush()
    return nats


def _perplexity(nats: list[list[float]]) -> dict[str, float]:
    means = [statistics.fmean(row) for row in nats]
    value = math.exp(statistics.fmean(means))
    if len(means) < 2:
        return {"perplexity": value}
    error = value * statistics.stdev(means) / math.sqrt(len(means))
    return {"perplexity": value, "perplexity_error": error}


def _peak_bytes() -> int:
    """Return the peak resident bytes of this process, memory-mapped pages of the file included."""
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _environment(threads: int) -> dict[str, str]:
    return {
        "device": f"{platform.machine()}, {threads} threads",
        "python": platform.python_version(),
        "llama.cpp": f"xllamacpp {metadata.version('xllamacpp')}",
    }


def _number(reported: float | None) -> float:
    """Return a log-probability as a float; llama.cpp reports NaN as null, since JSON has no NaN."""
    if reported is None:
        raise ValueError(
            "its logits are NaN or infinite; llama.cpp multiplies f16 tensors in float16, which "
            "holds values up to 65504: kind bf16 or f32 has a larger range"
        )
    return float(reported)


answer = measure_file  # called by `standalone`
