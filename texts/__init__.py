"""Text sources, their division into parts that do not overlap, and token windows."""

from .addresses import DataSetting, TextAddress, parse_addresses
from .builtin import BUILTIN, unused_builtin
from .corpus import Corpus, RawText, sample_documents
from .mixture import Weighted, distinct_across, mixed_windows, mixture_name
from .source_report import SourceReport, report_source
from .sources import read_corpus, read_raw
from .split import Split, shared_documents, split, split_to_fit
from .unigram_baseline import chance_perplexity
from .windows import (
    Tokenizer,
    Windows,
    check_vocabulary,
    copied_windows,
    count_tokens,
    pack_windows,
)

__all__ = [
    "BUILTIN",
    "Corpus",
    "DataSetting",
    "RawText",
    "SourceReport",
    "Split",
    "TextAddress",
    "Tokenizer",
    "Weighted",
    "Windows",
    "chance_perplexity",
    "check_vocabulary",
    "copied_windows",
    "count_tokens",
    "distinct_across",
    "mixed_windows",
    "mixture_name",
    "pack_windows",
    "parse_addresses",
    "read_corpus",
    "read_raw",
    "report_source",
    "sample_documents",
    "shared_documents",
    "split",
    "split_to_fit",
    "unused_builtin",
]
