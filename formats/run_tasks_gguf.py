"""Standalone script: evaluate a GGUF file on tasks of lm-eval, with llama.cpp.

`standalone` runs it in a fresh, isolated interpreter. It imports nothing of this package: tasks and
results are handled by `run_tasks`, llama.cpp by `measure_gguf`, both read by path. The model that
lm-eval asks is llama.cpp itself, with the file's own tokenizer, and not its weights in
transformers.
"""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_TASKS = Path(__file__).parents[1] / "models" / "evaluation" / "run_tasks.py"
_LLAMA = Path(__file__).with_name("measure_gguf.py")
_GENERATED = 256  # tokens, of a task that names no number; lm-eval's own default


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Evaluate a GGUF file on the tasks of a request."""
    version = metadata.version("xllamacpp")
    respond = runpy.run_path(str(_TASKS))["respond"]
    found: dict[str, Any] = respond(
        request, lambda: _model(request), **{"llama.cpp": f"xllamacpp {version}"}
    )
    return found


def _model(request: dict[str, Any]) -> Any:
    """The file opened by llama.cpp, as lm-eval's model."""
    from lm_eval.api.model import TemplateLM

    opened: dict[str, Any] = runpy.run_path(str(_LLAMA))
    room: dict[str, Any] = {"tokens": None, "elsewhere": None, "prompts": [], "decode_tokens": 0}
    llama = opened["Llama"]({**request, **room, "prefill_tokens": request["max_length"]})
    kind: Any = type("LlamaCpp", (LlamaCppModel, TemplateLM), {})
    return kind(llama, min(request["max_length"], llama.positions))


class LlamaCppModel:
    """What lm-eval's ``TemplateLM`` asks of a model, answered by llama.cpp.

    Args:
        llama: `measure_gguf.Llama` with the file.
        max_length: the most tokens of a prompt.
    """

    backend = "causal"

    def __init__(self, llama: Any, max_length: int) -> None:
        super().__init__()
        self._llama, self.max_length = llama, max_length

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return _special(self._llama, "eos", "bos")

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has no context."""
        return _special(self._llama, "bos", "eos")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokens by the file's own tokenizer."""
        tokens: list[int] = self._llama.tokens(string, special=add_special_tokens is not False)
        return tokens

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return [self._score(before, after) for _, before, after in requests]

    def _score(self, before: list[int], after: list[int]) -> tuple[float, bool]:
        """Sum of the log-probabilities of ``after``, and whether greedy decoding makes it."""
        whole = (before + after)[-self.max_length - 1 :]
        places = range(max(1, len(whole) - len(after)), len(whole))
        found = [self._llama.prediction(whole[:place], whole[place]) for place in places]
        return sum(value for value, _ in found), all(first for _, first in found)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts."""
        return [self._rolling(text) for (text,) in (each.args for each in requests)]

    def _rolling(self, text: str) -> float:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return sum(self._score(*make_disjoint_window(window))[0] for window in windows)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations."""
        return [self._generate(*each.args) for each in requests]

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        if settings.get("do_sample") or settings.get("temperature"):
            raise ValueError("the task samples from the model; GGUF files are decoded greedily")
        stop = settings.get("until") or []
        count = int(settings.get("max_gen_toks", _GENERATED))
        before = self.tok_encode(context)[-max(1, self.max_length - count) :]
        text: str = self._llama.continuation(
            before, count=count, stop=[stop] if isinstance(stop, str) else list(stop)
        )
        return text


def _special(llama: Any, *names: str) -> int:
    """The id of the first of these special tokens that the file has."""
    texts = llama.special_tokens()
    for name in names:
        tokens = llama.tokens(texts[name]) if texts[name] else []
        if len(tokens) == 1:
            return int(tokens[0])
    raise ValueError("the file names no token that begins or ends a text")
