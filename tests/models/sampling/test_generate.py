import math
from typing import Any

import pytest
import torch
from tiny import tiny_configs, tiny_model

from birdbone.errors import ModelError
from birdbone.models.sampling.generate import Sampled, Schedule, draw, generate
from birdbone.models.sampling.starts import USER_TOKENS, Start

GREEDY = Schedule(hot=1.0, cool=1.0, min_p=1.0)
NEVER: frozenset[int] = frozenset()


def _generate(model: Any, starts: list[Start], length: int = 12, **more: Any) -> list[Sampled]:
    settings = {"ends": NEVER, "schedule": Schedule(), **more}
    return generate(
        model, starts, length=length, generator=torch.Generator().manual_seed(0), **settings
    )


def _likeliest(model: Any, tokens: tuple[int, ...], length: int) -> tuple[int, ...]:
    """Greedy decoding without a cache."""
    while len(tokens) < length:
        with torch.no_grad():
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
        tokens = (*tokens, int(logits.argmax()))
    return tokens


@pytest.mark.parametrize("arch", sorted(tiny_configs))
def test_the_cache_changes_nothing(arch: str) -> None:
    model = tiny_model(arch)
    starts = [Start((token,)) for token in (5, 6, 7)]
    documents = _generate(model, starts, schedule=GREEDY)
    expected = [_likeliest(model, start.tokens, 12) for start in starts]
    assert [document.tokens for document in documents] == expected


def test_a_document_ends_at_an_end_token_and_the_others_go_on() -> None:
    model = tiny_model()
    starts = [Start((token,)) for token in (5, 6, 7)]
    whole = _generate(model, starts, schedule=GREEDY)
    end = whole[1].tokens[4]
    documents = _generate(model, starts, schedule=GREEDY, ends=frozenset({end}))
    for before, after in zip(whole, documents, strict=True):
        sampled = before.tokens[1:]
        stop = 1 + sampled.index(end) if end in sampled else len(before.tokens)
        assert after.tokens == before.tokens[:stop]
    assert len(documents[1].tokens) <= 4


def test_a_turn_that_the_model_ends_is_closed_as_the_template_says() -> None:
    model = tiny_model()
    plain = _generate(model, [Start((1, 5))], schedule=GREEDY)[0].tokens
    end = plain[4]
    first = plain.index(end, 2)
    found = _generate(
        model, [Start((1, 5), (9, 10, 11), 1)], 16, schedule=GREEDY, ends=frozenset({end})
    )[0]
    assert found.tokens[: first + 3] == (*plain[:first], 9, 10, 11)
    assert found.num_given == 1
    assert found.sampled == found.tokens[1:]


def test_a_turn_without_an_end_is_closed_after_so_many_tokens() -> None:
    model = tiny_model(max_position_embeddings=128)
    plain = _generate(model, [Start((5,))], 64)[0].tokens
    closing = next(token for token in range(128) if token not in plain)
    found = _generate(model, [Start((5,), (closing, 10, 11))], 64)[0].tokens
    turn = 1 + USER_TOKENS
    assert found[: turn + 3] == (*plain[:turn], closing, 10, 11)
    assert len(found) == 64


def test_the_nll_is_that_of_the_sampled_tokens() -> None:
    model = tiny_model()
    document = _generate(model, [Start((1, 5))])[0]
    tokens = torch.tensor([document.tokens])
    with torch.no_grad():
        logits = model(tokens).logits[0, 1:-1]
    expected = torch.nn.functional.cross_entropy(logits, tokens[0, 2:])
    # float32 sums in another order.
    assert document.nll == pytest.approx(float(expected), abs=1e-4)


def test_the_temperature_falls_to_the_cool_one() -> None:
    schedule = Schedule(hot=2.0, cool=1.0, cooling=4)
    assert [schedule.temperature(place) for place in range(6)] == [2.0, 1.75, 1.5, 1.25, 1.0, 1.0]
    assert Schedule(hot=2.0, cool=1.0, cooling=0).temperature(0) == 1.0


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    probabilities = torch.tensor([0.6, 0.3, 0.099, 0.001])
    schedule = Schedule(hot=1.0, cool=1.0, min_p=0.1)
    logits = probabilities.log().expand(20_000, 4)
    tokens, nats = draw(logits, schedule, 0, torch.Generator().manual_seed(0))
    counts = torch.tensor(tokens).bincount(minlength=4) / len(tokens)
    # min_p leaves out the last; 0.015 is four standard errors of 20 000 draws.
    assert counts[3] == 0
    assert torch.allclose(counts[:3], probabilities[:3] / 0.999, atol=0.015)
    assert nats[0] == pytest.approx(-math.log(probabilities[tokens[0]]), abs=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits = torch.zeros(2, 4)
    logits[1, 2] = value
    with pytest.raises(ModelError, match=r"not finite at sampled token 3;.*data='pydoc'"):
        draw(logits, Schedule(), 2, torch.Generator())


def test_a_model_without_a_cache_is_refused() -> None:
    model = tiny_model()
    model.forward = lambda *given, **more: type("Output", (), {"past_key_values": None})()
    with pytest.raises(ModelError, match=r"LlamaForCausalLM: it returns no key-value cache.*pydoc"):
        _generate(model, [Start((5,))])
