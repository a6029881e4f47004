"""Generated arithmetic for tests/tasks/arithmetic.yaml; the same questions each time."""

from __future__ import annotations

import random
from typing import Any

from datasets import Dataset

_EXAMPLES = "3 + 4 = 7\n9 - 5 = 4\n12 + 6 = 18\n"


def documents(**_: Any) -> dict[str, Dataset]:
    """200 questions with four answers each, one of them right."""
    drawn = random.Random(0)
    return {"test": Dataset.from_list([_question(drawn) for _ in range(200)])}


def _question(drawn: random.Random) -> dict[str, Any]:
    first, second = drawn.randint(10, 60), drawn.randint(1, 9)
    sign = drawn.choice("+-")
    right = first + second if sign == "+" else first - second
    others = drawn.sample([right + step for step in (-10, -2, -1, 1, 2, 10)], 3)
    choices = [*others, right]
    drawn.shuffle(choices)
    return {
        "examples": _EXAMPLES,
        "question": f"{first} {sign} {second}",
        "choices": [str(each) for each in choices],
        "answer": choices.index(right),
    }
