"""The overhead of a critic is measured on texts of its own, batched and one by one."""

import pytest

from benchmarks.critic_overhead import measure, overhead


def test_the_overhead_is_what_the_critic_adds_to_the_score() -> None:
    found = {
        "sparse": (1.0, 2.0), "critic_span": (3.0, 5.0), "sparse, one by one": (4.0, 8.0), "critic_span, one by one": (14.0, 9.0),
    }  # fmt: skip
    assert overhead(found, 0) == (2.0, 10.0)
    assert overhead(found, 1) == (3.0, 1.0)


@pytest.mark.slow
def test_each_case_has_its_milliseconds() -> None:
    found = measure("textenv/Detox-v0", episodes=4, rounds=1)
    assert list(found) == ["written", "sparse", "sparse, one by one", "critic_span", "critic_span, one by one"]
    assert all(wall > 0 and cpu > 0 for wall, cpu in found.values())
