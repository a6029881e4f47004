import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from birdbone.checkpoints import Checkpoint
from birdbone.errors import DataError, ModelError
from birdbone.models.reading.opening import as_checkpoint
from birdbone.models.sampling.self_text import sample_text

TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return as_checkpoint(tiny_model())


def _sample(checkpoint: Checkpoint, seed: int = 0) -> tuple[str, ...]:
    return sample_text(checkpoint, TOKENIZER, 300, seed=seed, batch_size=8)


def test_the_same_seed_gives_the_same_documents(checkpoint: Checkpoint) -> None:
    first = _sample(checkpoint)
    torch.manual_seed(123)
    assert _sample(checkpoint) == first
    assert _sample(checkpoint, seed=1) != first


def test_as_many_tokens_as_asked_for_of_different_documents(checkpoint: Checkpoint) -> None:
    told: list[tuple[int, int]] = []
    documents = sample_text(
        checkpoint,
        TOKENIZER,
        300,
        seed=0,
        batch_size=8,
        announce=lambda done, total: told.append((done, total)),
    )
    assert sum(len(TOKENIZER(text)["input_ids"]) for text in documents) > 250
    assert len(set(documents)) == len(documents)
    assert not any("</s>" in text for text in documents)
    assert {total for _, total in told} == {300}


def test_what_watches_can_stop_it(checkpoint: Checkpoint) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_text(checkpoint, TOKENIZER, 300, seed=0, batch_size=2, announce=stop)


def test_a_model_whose_logits_are_nan_is_refused() -> None:
    model = tiny_model()
    model.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(ModelError, match=r"not finite.*data='pydoc'"):
        _sample(as_checkpoint(model))


def test_a_model_that_only_repeats_itself_is_refused() -> None:
    model = tiny_model()
    # Every token has the same embedding, blocks change nothing, and the head prefers one token.
    model.model.embed_tokens.weight.data.fill_(1.0)
    for block in model.model.layers:
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    model.model.norm.weight.data.fill_(1.0)
    model.lm_head.weight.data.zero_()
    model.lm_head.weight.data[7] = 10.0
    with pytest.raises(DataError, match=r"of no use.*data='pydoc'"):
        _sample(as_checkpoint(model))
