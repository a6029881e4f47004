"""Models as immutable values, in memory and on disk."""

from .checkpoint import Checkpoint
from .diff import Diff, diff
from .shards import open_folder, write_folder
from .store import ObjectStore
from .tensors import (
    BitsAndBytes,
    Converted,
    GgmlBlocks,
    InMemory,
    InShard,
    Quantized,
    TensorRef,
    all_finite,
)

__all__ = [
    "BitsAndBytes",
    "Checkpoint",
    "Converted",
    "Diff",
    "GgmlBlocks",
    "InMemory",
    "InShard",
    "ObjectStore",
    "Quantized",
    "TensorRef",
    "all_finite",
    "diff",
    "open_folder",
    "write_folder",
]
