"""Which links may follow which: checks across links, registered when the links are imported."""

from . import checks as checks
