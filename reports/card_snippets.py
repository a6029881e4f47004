"""How to load a saved model and train on it, as its card prints it; every snippet runs."""

from __future__ import annotations

_LOADING = """## Loading

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```"""
_LOADING_GGUF = """## Loading

```bash
llama-cli -m path/to/{file}
```"""
_NEEDS = {
    "gguf": "llama.cpp and software built on it run this file. transformers reads it as "
    'dequantised values with `from_pretrained(folder, gguf_file="{file}")`.',
    "dense": "Plain transformers loads it; bird-bone is not needed.",
    "packed": "Plain transformers loads it if `compressed-tensors` is installed, and unpacks the "
    "weights at the first forward pass on a CPU: the files are smaller, the computation is not "
    "faster.",
    "nf4": "Plain transformers loads it if `bitsandbytes` is installed.",
    "llm.int8": "Plain transformers loads it if `bitsandbytes` is installed.",
}
_TRAINING_PACKED = """## Training an adapter

PEFT needs the weights, not their codes: one forward pass unpacks them. The adapter is saved by
itself and used with this folder, loaded in the same way.

```python
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

{loading}
model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
```"""
_ADAPTER = """## The adapter

`adapter/` holds a low-rank correction of the quantisation error. The figures above were measured
without it. PEFT adds it{how}:

```python
{imports}

{loading}
model = PeftModel.from_pretrained(model, "path/to/this/folder/adapter")
```"""
_PLAIN = 'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto")'
_UNPACKED = f"""{_PLAIN}
with torch.no_grad():
    model(torch.tensor([[0]], device=model.device))  # unpacks the weights"""


def usage_sections(weight_format: str, *, file: str, corrected: bool) -> list[str]:
    """The sections of a card on loading and training.

    Args:
        weight_format: how weights are stored, see `model_card`.
        file: name of the GGUF file, where there is one.
        corrected: whether a folder ``adapter/`` lies beside the weights.
    """
    loading = _LOADING_GGUF.format(file=file) if weight_format == "gguf" else _LOADING
    sections = [f"{loading}\n\n{_NEEDS[weight_format].format(file=file)}"]
    if corrected:
        sections.append(_adapter(weight_format))
    if weight_format == "packed":
        sections.append(_TRAINING_PACKED.format(loading=_UNPACKED))
    return sections


def _adapter(weight_format: str) -> str:
    packed = weight_format == "packed"
    imports = "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM"
    return _ADAPTER.format(
        how=" to the unpacked weights, for it cannot add to codes" if packed else "",
        imports=f"import torch\n{imports}" if packed else imports,
        loading=_UNPACKED if packed else _PLAIN,
    )
