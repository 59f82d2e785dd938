"""One message of many errors: those of one kind share it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import ALIKE_SHOWN, ConfigError, ScheduleError, UserError


def refusal(number: int, rule: str = "must be a multiple of 8, below 4M") -> ScheduleError:
    return ScheduleError.of("batch", number, rule, [number // 8 * 8, number // 8 * 8 + 8])


def test_few_errors_are_shown_one_by_one():
    problems = [refusal(number) for number in range(1, ALIKE_SHOWN + 1)]
    assert str(ScheduleError.together(problems)).splitlines() == [str(p) for p in problems]


def test_many_alike_are_one_line_with_count_first_last_and_nearest():
    problems = [refusal(number, f"must be a multiple of {number}") for number in range(1, 1001)]
    assert str(ScheduleError.together(problems)) == (
        "batch = 1: must be a multiple of 1. Nearest legal: 0 or 8. "
        "999 more are alike, the last 1000 (nearest legal: 1000 or 1008)."
    )


def test_other_keys_rules_and_free_texts_keep_their_own_lines():
    problems: list[UserError] = [refusal(number) for number in range(100)]
    problems += [refusal(5, "must be odd"), ConfigError.of("lr", 5, "must be odd")]
    problems += [ConfigError("as it is")] * 2
    lines = str(ConfigError.together(problems)).splitlines()
    assert len(lines) == 5
    assert lines[1:] == [
        "batch = 5: must be odd. Nearest legal: 0 or 8.",
        "lr = 5: must be odd.",
        "as it is",
        "as it is",
    ]


@given(st.lists(st.sampled_from(["is red", "is 3 long", "is 4_000 long", "is 2.5M long"])))
def test_no_more_lines_than_kinds_allow_and_every_problem_is_counted(rules):
    problems = [refusal(number, rule) for number, rule in enumerate(rules)]
    lines = str(ScheduleError.together(problems)).splitlines()
    counted = sum(
        1 + int((line.split(" more are alike")[:-1] or ["0"])[0].split()[-1]) for line in lines
    )
    assert counted == len(problems)
    assert len(lines) <= 2 * ALIKE_SHOWN
