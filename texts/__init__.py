"""Text: where it comes from, how it is divided so that parts never overlap, how it is tokenised."""

from .guessing import chance_perplexity
from .sources import Corpus, read_corpus
from .split import Split, shared_documents, split
from .windows import Tokenizer, Windows, check_vocabulary, copied_windows, pack_windows

__all__ = [
    "Corpus",
    "Split",
    "Tokenizer",
    "Windows",
    "chance_perplexity",
    "check_vocabulary",
    "copied_windows",
    "pack_windows",
    "read_corpus",
    "shared_documents",
    "split",
]
