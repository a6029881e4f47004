"""Scores on tasks: errors against closed forms and the jackknife, paired and not."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Sequence

import pytest
from tiny_tasks import perplexity_result, scores, task_result

from birdbone.contexts.task_scores import (
    Recovery,
    below,
    recorded_recovery,
    recoveries,
    task_document,
    task_scores,
)

RIGHT = ([1, 1, 0, 1, 1, 0, 1, 1], [1, 0, 0, 1, 1, 1, 1, 0])


def one(dense: Sequence[int], light: Sequence[int], **more: str) -> Recovery:
    (found,) = recoveries([scores(dense)], [scores(light, **more)])
    return found


def test_the_error_of_an_accuracy_is_that_of_its_mean() -> None:
    metric = scores(RIGHT[0]).metrics[0]
    assert metric.error == pytest.approx(statistics.stdev(RIGHT[0]) / math.sqrt(8))


def test_the_error_of_a_difference_is_paired() -> None:
    found = one(*RIGHT)
    apart = [after - before for before, after in zip(*RIGHT, strict=True)]
    assert found.difference == pytest.approx(statistics.mean(apart))
    assert found.difference_error == pytest.approx(statistics.stdev(apart) / math.sqrt(8))
    assert found.difference_error < math.hypot(found.dense_error, found.light_error)


def test_a_model_beside_itself_recovers_all_without_error() -> None:
    found = one(RIGHT[0], RIGHT[0])
    assert (found.recovery, found.recovery_error, found.difference_error) == (1.0, 0.0, 0.0)


def jackknife(statistic: Sequence[float]) -> float:
    count, mean = len(statistic), statistics.mean(statistic)
    return math.sqrt((count - 1) / count * sum((each - mean) ** 2 for each in statistic))


def test_the_error_of_a_recovery_is_that_of_the_jackknife() -> None:
    drawn = random.Random(0)
    dense = [int(drawn.random() < 0.7) for _ in range(300)]
    light = [each if drawn.random() < 0.9 else 1 - each for each in dense]
    found = one(dense, light)
    assert found.recovery == pytest.approx(sum(light) / sum(dense))
    left_out = [
        (sum(light) - after) / (sum(dense) - before)
        for before, after in zip(dense, light, strict=True)
    ]
    assert found.recovery_error == pytest.approx(jackknife(left_out), rel=0.02)


def test_perplexities_weigh_documents_by_their_words() -> None:
    drawn = random.Random(1)
    words = [float(drawn.randint(20, 60)) for _ in range(300)]
    dense = [count * drawn.gauss(3.0, 0.3) for count in words]
    light = [
        nats + count * drawn.gauss(0.1, 0.02) for nats, count in zip(dense, words, strict=True)
    ]
    sides = [task_scores(perplexity_result(nats, words)) for nats in (dense, light)]
    (found,) = recoveries(*([side] for side in sides))
    ratio = math.exp((sum(dense) - sum(light)) / sum(words))
    assert found.recovery == pytest.approx(ratio)
    assert found.difference > 0
    left_out = [
        math.exp((sum(dense) - d - sum(light) + e) / (sum(words) - w))
        for d, e, w in zip(dense, light, words, strict=True)
    ]
    assert found.recovery_error == pytest.approx(jackknife(left_out), rel=0.02)
    alone = [
        math.exp((sum(light) - e) / (sum(words) - w)) for e, w in zip(light, words, strict=True)
    ]
    assert found.light_error == pytest.approx(jackknife(alone), rel=0.02)


def test_other_samples_are_not_paired() -> None:
    found = one(*RIGHT, definition="another")
    assert math.isnan(found.difference_error)
    assert math.isnan(found.recovery_error)
    assert found.recovery == pytest.approx(5 / 6)


def test_a_score_that_does_not_follow_from_samples_has_no_error() -> None:
    result = task_result(RIGHT[0])
    result["metrics"][0] |= {"scale": "other", "values": [], "weights": [], "score": 0.5}
    side = task_scores(result)
    assert math.isnan(side.metrics[0].error)
    (found,) = recoveries([side], [side])
    assert found.recovery == 1.0
    assert math.isnan(found.recovery_error)


def test_a_bound_counts_two_standard_errors() -> None:
    found = one(*RIGHT)
    edge = found.recovery + 2 * found.recovery_error
    assert found.holds(edge - 1e-9)
    assert not found.holds(edge + 1e-9)
    assert below([found], edge - 1e-9) is None
    message = below([one(RIGHT[0], RIGHT[0]), found], edge + 1e-9)
    assert message is not None
    assert "acc of sums fell from 0.75 to 0.625, a recovery of 83.33% (standard error" in message


def test_an_original_that_scores_nothing_passes_no_bound() -> None:
    found = one([0, 0, 0], [1, 0, 0])
    assert math.isnan(found.recovery)
    assert "the original scores 0 in acc of sums" in str(below([found], 0.1))


def test_documents_are_read_back() -> None:
    side = scores(RIGHT[0])
    assert task_scores(json.loads(json.dumps(task_document(side)))) == side
    for found in (one(*RIGHT), one(*RIGHT, definition="another")):
        again = recorded_recovery(json.loads(json.dumps(found.as_dict())))
        assert again.as_dict() == found.as_dict()
        assert math.isnan(again.recovery_error) == math.isnan(found.recovery_error)
