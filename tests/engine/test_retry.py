"""What follows when a node fails."""

from __future__ import annotations

import pytest

from apps.engine.retry import RetryPolicy, retry_delay


@pytest.mark.parametrize(
    ("policy", "failures", "exit_code", "delay"),
    [
        pytest.param(RetryPolicy(), 1, 1, None, id="none by default"),
        pytest.param(RetryPolicy(retries=2), 2, 1, 60.0, id="even pauses of a minute"),
        pytest.param(RetryPolicy(retries=2), 3, 1, None, id="used up"),
        pytest.param(RetryPolicy(retries=9, backoff=2), 4, 1, 480.0, id="growing pauses"),
        pytest.param(RetryPolicy(retries=99, backoff=2), 40, 1, 3600.0, id="but not for ever"),
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
