"""Run by a Python that has vLLM: log-probabilities of the tokens of windows, on a CPU.

Arguments: the folder, a JSON file of windows of token ids, and the JSON file to write.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


def main() -> None:
    folder, given, out = sys.argv[1:]
    os.environ.update(SETTINGS)
    from vllm import LLM, SamplingParams

    windows = json.loads(Path(given).read_text())
    model = LLM(
        folder,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=len(windows[0]) + 1,
        skip_tokenizer_init=True,
    )
    asked = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    found = model.generate([{"prompt_token_ids": window} for window in windows], asked)
    scores = [
        [at[token].logprob for at, token in zip(each.prompt_logprobs[1:], window[1:], strict=True)]
        for each, window in zip(found, windows, strict=True)
    ]
    Path(out).write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
