"""A Hugging Face model seen as a stack of blocks."""

from .opening import as_checkpoint, open_checkpoint
from .sources import find_model
from .tokenizer import load_tokenizer

__all__ = ["as_checkpoint", "find_model", "load_tokenizer", "open_checkpoint"]
