from birdbone.models.sampling.generate import Sampled
from birdbone.models.sampling.sampled_batches import (
    SampledBatch,
    as_state,
    first_batches,
    read_state,
)


def _batch(*documents: tuple[int, ...]) -> SampledBatch:
    return SampledBatch(tuple(Sampled(tokens, 1, 2.0) for tokens in documents), 4)


def test_batches_come_back_from_their_state() -> None:
    batches = [_batch((1, 2, 3), (4, 5)), _batch(), _batch((6,))]
    found = read_state(*as_state(batches))
    assert [[(each.tokens, each.num_given) for each in batch.kept] for batch in found] == [
        [((1, 2, 3), 1), ((4, 5), 1)],
        [],
        [((6,), 1)],
    ]
    assert [batch.num_sampled for batch in found] == [4, 4, 4]


def test_no_batch_and_batches_without_documents_come_back_too() -> None:
    assert read_state(*as_state([])) == []
    assert read_state(*as_state([_batch()])) == [_batch()]


def test_as_few_batches_as_hold_the_tokens() -> None:
    batches = [_batch((1, 2, 3)), _batch(), _batch((4, 5)), _batch((6,))]
    assert first_batches(batches, 3) == batches[:1]
    assert first_batches(batches, 4) == batches[:3]
    assert first_batches(batches, 99) == batches
