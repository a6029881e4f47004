"""Models as immutable values, in memory and on disk: config, small files and lazy tensors."""

from .checkpoint import Checkpoint, LeftOut
from .coded import BitsAndBytes, Coded, GgmlBlocks, Quantized
from .diff import Diff, diff
from .shards import open_folder, write_folder
from .store import ObjectStore
from .tensors import Converted, InMemory, InShard, TensorRef, all_finite

__all__ = [
    "BitsAndBytes",
    "Checkpoint",
    "Coded",
    "Converted",
    "Diff",
    "GgmlBlocks",
    "InMemory",
    "InShard",
    "LeftOut",
    "ObjectStore",
    "Quantized",
    "TensorRef",
    "all_finite",
    "diff",
    "open_folder",
    "write_folder",
]
