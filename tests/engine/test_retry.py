"""What follows when a node fails."""

from __future__ import annotations

import pytest

from apps.engine.retry import RetryPolicy, in_words, retry_delay


@pytest.mark.parametrize(
    ("policy", "failures", "exit_code", "delay"),
    [
        pytest.param(RetryPolicy(), 1, 1, None, id="none by default"),
        pytest.param(RetryPolicy(retries=2), 2, 1, 60.0, id="even pauses of a minute"),
        pytest.param(RetryPolicy(retries=2), 3, 1, None, id="used up"),
        pytest.param(RetryPolicy(retries=9, backoff=2), 4, 1, 480.0, id="growing pauses"),
        pytest.param(RetryPolicy(retries=99, backoff=2), 40, 1, 3600.0, id="but not for ever"),
        pytest.param(
            RetryPolicy(retries=30_000, backoff=10), 29_000, 1, 3600.0, id="however often"
        ),
        pytest.param(
            RetryPolicy(retries=30_000, interval_seconds=0, backoff=10),
            29_000,
            1,
            0.0,
            id="nothing grows out of nothing",
        ),
        pytest.param(
            RetryPolicy(retries=2, interval_seconds=7200), 1, 1, 7200.0, id="a long even pause"
        ),
        pytest.param(
            RetryPolicy(retries=2, interval_seconds=7200, backoff=2),
            2,
            1,
            7200.0,
            id="a pause above the longest stays and does not grow",
        ),
        pytest.param(
            RetryPolicy(retries=2, final_exit_codes={64}), 1, 64, None, id="of no use to try again"
        ),
        pytest.param(
            RetryPolicy(retries=1, interval_seconds=0), 1, None, 0.0, id="timed out, at once"
        ),
    ],
)
def test_retry_delay(policy, failures, exit_code, delay):
    assert retry_delay(policy, failures=failures, exit_code=exit_code) == delay


def test_jitter_takes_at_most_half_of_a_growing_pause_and_nothing_of_an_even_one():
    growing = RetryPolicy(retries=9, interval_seconds=100, backoff=2)

    assert retry_delay(growing, failures=1, exit_code=1, jitter=1.0) == 50
    assert retry_delay(RetryPolicy(retries=1), failures=1, exit_code=1, jitter=1.0) == 60


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (RetryPolicy(), "no retries"),
        (RetryPolicy(final_exit_codes=[2]), "no retries"),
        (RetryPolicy(retries=1), "1 retry, 60 s later"),
        (RetryPolicy(retries=1, backoff=2, final_exit_codes=[2]),
         "1 retry, 60 s later; not after exit code 2"),
        (RetryPolicy(retries=3, interval_seconds=0, backoff=2), "3 retries, at once"),
        (RetryPolicy(retries=3, interval_seconds=90), "3 retries, 90 s apart"),
        (RetryPolicy(retries=3, interval_seconds=7200, backoff=2), "3 retries, 2 h apart"),
        (RetryPolicy(2, 60, 2.0, 3600, (64, 2)),
         "2 retries, 60 s apart, doubling up to 1 h; not after exit codes 2, 64"),
        (RetryPolicy(9, 300, 3, 86_400), "9 retries, 5 min apart, tripling up to 1 d"),
        (RetryPolicy(9, 60, 1.5, 5400),
         "9 retries, 60 s apart, 1.5 times as long each up to 90 min"),
    ],
)  # fmt: skip
def test_policy_in_words(policy, words):
    assert in_words(policy) == words
