"""A Hugging Face model seen as a stack of blocks."""

from .reading.opening import as_checkpoint, open_checkpoint
from .reading.sources import find_model
from .reading.tokenizer import load_tokenizer

__all__ = ["as_checkpoint", "find_model", "load_tokenizer", "open_checkpoint"]
