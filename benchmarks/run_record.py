"""What each run of `table.py` reads and leaves, in bird-bone's environment and in those of peers.

It imports torch and safetensors only, since the environments of peers have no bird-bone.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def read_job() -> dict[str, Any]:
    """The job named on the command line, with the tensors of its file ``texts`` in it.

    Keys: ``model`` (folder), ``threads``, ``batch_size``, ``task`` (what to do), ``weights`` and
    ``record`` (files to write); ``tokens`` to calibrate on, and ``healing`` to train on where the
    method heals, int64 [windows, length].
    """
    job: dict[str, Any] = json.loads(Path(sys.argv[-1]).read_text())
    torch.set_num_threads(job["threads"])
    return {**job, **load_file(job["texts"])}


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Yield a record that receives CPU seconds of all threads, and wall seconds."""
    record: dict[str, Any] = {}
    cpu, wall = time.process_time(), time.perf_counter()
    yield record
    record["cpu_seconds"] = time.process_time() - cpu
    record["wall_seconds"] = time.perf_counter() - wall


def leave(
    job: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    record: Mapping[str, Any],
    packages: Sequence[str],
) -> None:
    """Write the weights as dense float32, and the record with the versions of the packages."""
    dense = {name: each.detach().float().contiguous() for name, each in weights.items()}
    save_file(dense, job["weights"])
    versions = {name: importlib.metadata.version(name) for name in packages}
    Path(job["record"]).write_text(json.dumps({**record, "versions": versions}, default=str))


def dense_linears(model: nn.Module) -> dict[str, Tensor]:
    """The weight of every linear but the output head, by its name in the state dict."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
