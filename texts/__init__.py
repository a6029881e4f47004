"""Text: where it comes from, how it is divided so that parts never overlap, how it is tokenised."""

from .builtin import BUILTIN, unused_builtin
from .corpus import Corpus, sample_documents
from .guessing import chance_perplexity
from .sources import read_corpus
from .split import Split, shared_documents, split
from .windows import Tokenizer, Windows, check_vocabulary, copied_windows, pack_windows

__all__ = [
    "BUILTIN",
    "Corpus",
    "Split",
    "Tokenizer",
    "Windows",
    "chance_perplexity",
    "check_vocabulary",
    "copied_windows",
    "pack_windows",
    "read_corpus",
    "sample_documents",
    "shared_documents",
    "split",
    "unused_builtin",
]
