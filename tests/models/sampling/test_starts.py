import random

import pytest
from tiny import tiny_tokenizer

from birdbone.models.sampling.starts import Starts, beginnings, chat_turn, control_tokens

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>answer {% endif %}"
)


def test_special_tokens_are_no_beginnings() -> None:
    tokenizer = tiny_tokenizer()
    words, anything = beginnings(tokenizer, 128)
    assert control_tokens(tokenizer) == {0, 1, 2, 3}
    assert not control_tokens(tokenizer) & {*words, *anything}


def test_words_are_letters_that_follow_a_space_or_a_capital() -> None:
    tokenizer = tiny_tokenizer()
    words, anything = beginnings(tokenizer, 128)
    pieces = {tokenizer.convert_ids_to_tokens(word) for word in words}
    assert {"▁the", "▁and", "A"} <= pieces
    assert not pieces & {"th", "a", "7", "▁"}
    assert set(words) < set(anything)


def test_tokens_without_an_embedding_are_no_beginnings() -> None:
    assert max(beginnings(tiny_tokenizer(), 50)[1]) < 50


def test_a_chat_turn_is_what_the_template_puts_around_a_message() -> None:
    tokenizer = tiny_tokenizer()
    assert chat_turn(tokenizer) is None
    tokenizer.chat_template = TEMPLATE
    found = chat_turn(tokenizer)
    assert found is not None
    opening, closing = found
    assert opening[0] == tokenizer.bos_token_id
    assert closing[0] == tokenizer.eos_token_id
    assert tokenizer.decode(closing).replace(" ", "") == "</s><s>answer"


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('two messages, please') }}", "always the same", "{{"]
)
def test_a_template_that_renders_no_message_gives_no_turn(template: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    assert chat_turn(tokenizer) is None


def test_a_batch_is_of_turns_or_of_plain_text() -> None:
    starts = Starts((5,), (6,), ((1, 7), (2, 8)))
    chooser = random.Random(0)
    plain = starts.draw(3, chat=False, generator=chooser)
    assert [start.tokens for start in plain] == [(5,), (6,), (5,)]
    turns = starts.draw(2, chat=True, generator=chooser)
    assert [start.tokens for start in turns] == [(1, 7, 5), (1, 7, 6)]
    assert {(start.closing, start.num_given) for start in turns} == {((2, 8), 2)}
    without = Starts((5,), (6,), None)
    assert without.draw(1, chat=True, generator=chooser)[0].tokens == (5,)
