"""Counts: exact, with suffixes, and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import ConfigError
from megascale.units import COUNT_PATTERN, SUFFIXES, format_count, parse_count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2M", 2_000_000),
        ("125B", 125_000_000_000),
        ("1.5M", 1_500_000),
        (4096, 4096),
        ("4_194_304", 4_194_304),
        ("2Mi", 2_097_152),
        ("1.5Ki", 1536),
        ("0", 0),
        ("10 T", 10_000_000_000_000),
        (1e9, 1_000_000_000),
        ("1e9", 1_000_000_000),
        ("0.1B", 100_000_000),
        ("1.000001M", 1_000_001),
    ],
)
def test_reads_exact_integers(text: object, count: int) -> None:
    value = parse_count(text, "train.total_tokens")
    assert value == count
    assert type(value) is int


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("1.0000001M", "1_000_000 or 1_000_001"),
        ("2m", "Nearest legal: 2M"),
        ("2G", "Nearest legal: 2B"),
        ("3X", "unknown suffix 'X'"),
        ("-5", "whole number"),
        (-5, "Nearest legal: 0"),
        (1.5, "1 or 2"),
        (True, "whole number"),
        (None, "whole number"),
        ("", "whole number"),
        ("1,000", "whole number"),
        (float("nan"), "whole number"),
        (1e300, "whole number"),
    ],
)
def test_refuses_what_is_not_a_count(value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.total_tokens") as caught:
        parse_count(value, "train.total_tokens")
    assert said in str(caught.value)


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_text_and_number_are_inverse(count: int) -> None:
    assert parse_count(format_count(count), "n") == count


@given(st.integers(0, 10**6), st.sampled_from(sorted(SUFFIXES)))
def test_suffix_multiplies_and_pattern_agrees(number: int, suffix: str) -> None:
    text = f"{number}{suffix}"
    assert parse_count(text, "n") == number * SUFFIXES[suffix]
    assert re.match(COUNT_PATTERN, text)
    assert re.match(COUNT_PATTERN, format_count(number))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (4_000_000, "4M"),
        (4_194_304, "4_194_304"),
        (1_500_000_000, "1.5B"),
        (999, "999"),
        (1024, "1_024"),
        (15 * 10**15, "15_000T"),
        (0, "0"),
    ],
)
def test_text_is_short_and_exact(count: int, text: str) -> None:
    assert format_count(count) == text
