"""Standalone script: open one folder with plain transformers and report its outputs.

`standalone` runs it in a fresh, isolated interpreter. It imports nothing of this package, like
`measure_folder`. The request names the folder, dtype, device, the number of tokens to decode, and
windows of tokens with the positions whose logits are wanted, or none.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

_PROMPT = "The bones of a bird are"
_LISTED = 4  # names of missing parameters in a message
_PROMPT_TOKENS = 16


@torch.inference_mode()
def read(request: dict[str, Any]) -> dict[str, Any]:
    """The model's outputs: a greedy continuation, and losses and logits of the windows."""
    opened: Any = AutoModelForCausalLM.from_pretrained(  # typed as if it returned a model alone
        request["folder"],
        dtype=getattr(torch, request["dtype"]),
        device_map=request["device"],
        trust_remote_code=request["trust_remote_code"],
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    model, info = opened
    _require_all(sorted(map(str, info["missing_keys"])))
    model.eval()
    tokenizer = _tokenizer(request)
    prompt = _prompt(model, tokenizer, request)
    decoded = _decode(model, prompt.to(request["device"]), request["decode_tokens"])
    windows = [_window(model, row, request["device"]) for row in request["windows"]]
    return {
        "architecture": type(model).__name__,
        "prompt": prompt[0].tolist(),
        "decoded": decoded,
        "text": None if tokenizer is None else tokenizer.decode([*prompt[0].tolist(), *decoded]),
        "nll": [nll for nll, _ in windows],
        "logits": [logits for _, logits in windows],
        "environment": _environment(request["device"]),
    }


def _require_all(missing: list[str]) -> None:
    """Refuse a model of which transformers had to initialise a part anew."""
    if missing:
        listed = ", ".join(missing[:_LISTED]) + (", …" if len(missing) > _LISTED else "")
        raise ValueError(f"{len(missing)} parameters are not in its files: {listed}")


def _tokenizer(request: dict[str, Any]) -> Any:
    """The folder's tokenizer, or None where it has none that can be read."""
    try:
        return AutoTokenizer.from_pretrained(
            request["folder"],
            trust_remote_code=request["trust_remote_code"],
            local_files_only=True,
        )
    except Exception:  # noqa: BLE001 - without words, token ids are shown
        return None


def _prompt(model: Any, tokenizer: Any, request: dict[str, Any]) -> Tensor:
    """Tokens ``[1, length]`` to go on from: of the first window, of a fixed text, or the first."""
    if request["windows"]:
        ids = request["windows"][0]["tokens"][:_PROMPT_TOKENS]
    elif tokenizer is not None:
        ids = tokenizer(_PROMPT)["input_ids"]
    else:
        vocabulary = model.config.get_text_config(decoder=True).vocab_size
        ids = list(range(min(_PROMPT_TOKENS, vocabulary)))
    return torch.tensor([ids])


def _decode(model: nn.Module, prompt: Tensor, count: int) -> list[int]:
    """The tokens ranked first, one after the other."""
    decoded: list[int] = []
    output, text = _begun(model, prompt), prompt
    for _ in range(count):
        if not torch.isfinite(output.logits[:, -1]).all():
            raise ValueError("its logits are NaN or infinite")
        token = output.logits[:, -1:].argmax(-1)
        decoded.append(int(token))
        text = torch.cat((text, token), dim=1)
        output = _continued(model, output, text)
    return decoded


def _begun(model: nn.Module, prompt: Tensor) -> Any:
    """The output for a prompt, with a cache where the model can make one."""
    try:
        return model(prompt, use_cache=True)
    except Exception:  # noqa: BLE001 - raised again below if the cache is not the reason
        return model(prompt, use_cache=False)


def _continued(model: nn.Module, output: Any, text: Tensor) -> Any:
    """The output after the last token of a text: from the cache of the rest, or from all of it.

    State-space models name their cache otherwise, and some caches cannot be continued by a plain
    call.
    """
    cache = getattr(output, "past_key_values", None)
    if cache is not None:
        try:
            return model(text[:, -1:], past_key_values=cache, use_cache=True)
        except Exception:  # noqa: BLE001 - raised again below if the cache is not the reason
            cache = None
    return model(text, use_cache=False)


def _window(
    model: nn.Module, row: dict[str, Any], device: str
) -> tuple[list[float], list[list[float]]]:
    """Of one window: nats per predicted token, and the logits at the places asked for."""
    tokens = torch.tensor([row["tokens"]], device=device)
    logits = model(tokens, use_cache=False).logits[0].float()
    log = logits[:-1].log_softmax(-1)
    nll = -log.gather(1, tokens[0, 1:].unsqueeze(1)).squeeze(1)
    asked = zip(row["places"], row["ids"], strict=True)
    return nll.tolist(), [logits[place, ids].tolist() for place, ids in asked]


def _environment(device: str) -> dict[str, str]:
    module = torch.get_device_module(device)
    named = module.get_device_name() if hasattr(module, "get_device_name") else platform.machine()
    return {
        "device": f"{named}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


answer = read  # called by `standalone`
