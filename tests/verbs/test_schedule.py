"""`megascale schedule`: long schedules are folded on the screen and whole in JSON and exports."""

from __future__ import annotations

import json

import pytest

from megascale.formats.law_file import LawFile, write_law_file
from megascale.formats.law_upgrade import SCHEMA
from tests.verbs.scene import call

SEGMENTS = 1000
UNIT = 4 * 32


def table(count: int, *, unit: int = UNIT) -> tuple[str, int]:
    """Batches that change at every second step, and the tokens they take."""
    entries, tokens = [], 0
    for number in range(count):
        batch = (8 + number % 5) * unit
        entries.append(f"{tokens}:{batch}")
        tokens += 2 * batch
    return ", ".join(entries), tokens


def words(text: str, tokens: int, *more: str) -> list[str]:
    layout = ["--seq-length", "32", "--micro-batch", "4"]
    return ["schedule", "--table", text, "--tokens", str(tokens), *layout, *more]


def test_a_long_schedule_is_folded(capsys):
    text, tokens = table(SEGMENTS)
    assert call(words(text, tokens)) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 30
    assert "… 989 more segments: batch 1_024 to 1_536 tokens, 1,978 steps; --json has" in shown
    assert f"{tokens - 2 * 12 * UNIT:_}" in shown  # the last segment's start


def test_a_short_one_is_whole(capsys):
    text, tokens = table(12)
    assert call(words(text, tokens)) == 0
    assert "…" not in capsys.readouterr().out


def test_json_and_exports_are_whole(capsys):
    text, tokens = table(SEGMENTS)
    assert call(words(text, tokens, "--json")) == 0
    printed = capsys.readouterr().out
    segments = json.loads(printed)["segments"]
    assert [s["batch_tokens"] for s in segments] == [(8 + i % 5) * UNIT for i in range(SEGMENTS)]
    assert len(printed.splitlines()) < SEGMENTS + 60  # a segment a line
    assert call(words(text, tokens, "--export", "yaml")) == 0
    assert capsys.readouterr().out.count(":") > SEGMENTS


@pytest.mark.parametrize("more", [(), ("--rounding", "exact")])
def test_refusals_of_one_kind_are_one_message(capsys, more):
    text, tokens = table(SEGMENTS, unit=UNIT + 1)
    assert call(words(text, tokens, *more, "--max-rounding", "1e-9")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("megascale: --table = 0: 1_032: ")
    assert "Nearest legal: 1_024 or 1_152. 999 more are alike, the last " in lines[0]
    assert lines[0].endswith(": 1_548 (nearest legal: 1_536 or 1_664).")


def test_batches_that_never_run_are_one_message(capsys):
    text = ", ".join(f"{start}:{4 * UNIT}" for start in range(0, 1000))
    assert call(words(text, 1000)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "never takes effect" in lines[0]
    assert "more are alike, the last 999: 512" in lines[0]


def test_a_law_with_a_band_and_many_looks(tmp_path, capsys):
    law = LawFile.model_validate(
        {
            "schema": SCHEMA,
            "name": "toy",
            "version": "1",
            "form": "power",
            "output": "batch_tokens",
            "parameters": {
                "coef": {"value": 10.0, "low": 9.0, "high": 11.0},
                "a": {"value": 0.0},
                "b": {"value": 0.5},
            },
            "n_kind": "total",
            "d_kind": "horizon",
        }
    )
    path = tmp_path / "law.json"
    write_law_file(law, path)
    options = [
        "--law-file",
        str(path),
        "--interval",
        "100K",
        "--initial",
        "3200",
        "--max-batch",
        "50K",
    ]
    layout = ["--tokens", "100M", "--seq-length", "32", "--max-rounding", "0.5"]
    assert call(["schedule", *options, *layout, "--json"]) == 0
    segments = json.loads(capsys.readouterr().out)["segments"]
    assert len(segments) == SEGMENTS
    for segment in segments[1:]:
        low, high = segment["batch_band_tokens"]
        asked = min(10 * segment["requested_start_tokens"] ** 0.5, 50_000)
        assert low <= asked + 1
        assert high >= asked - 1
    assert call(["schedule", *options, *layout]) == 0
    assert len(capsys.readouterr().out.splitlines()) < 35


def test_a_law_needs_no_interval_and_no_first_batch(capsys):
    assert call(["schedule", "--law-file", "step-law", "--tokens", "50B", "--json"]) == 0
    segments = json.loads(capsys.readouterr().out)["segments"]
    assert len(segments) == 10
    sizes = [segment["batch_tokens"] for segment in segments]
    assert sizes == sorted(sizes)


def test_schedules_by_rule(capsys):
    layout = ["--tokens", "1M", "--seq-length", "32", "--micro-batch", "4", "--json"]
    remaining = ["--rule", "remaining", "--initial", "256", "--decay", "200K"]
    assert call(["schedule", *remaining, *layout]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [s["batch_tokens"] for s in found["segments"]] == [256, 512, 1024]
    assert found["source"]["kind"] == "remaining"
    late = ["--rule", "late", "--initial", "256", "--max-batch", "1Ki", "--switch-at", "700K"]
    assert call(["schedule", *late, *layout]) == 0
    segments = json.loads(capsys.readouterr().out)["segments"]
    assert [s["requested_start_tokens"] for s in segments] == [0, 700_000]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--rule", "late", "--initial", "256"], "--max-batch = None: --rule late ends with"),
        (["--rule", "remaining"], "--initial = None: --rule remaining begins with"),
        (["--rule", "remaining", "--initial", "256"], "grows without bound"),
        (["--rule", "late", "--initial", "1", "--table", "0:256"], "exactly one of"),
        (["--table", "0:256", "--lr", "1e-3:2e-3"], "LOW:HIGH is for --optimize"),
    ],
)
def test_rules_refuse(more, said, capsys):
    assert call(["schedule", "--tokens", "1M", "--seq-length", "32", *more]) == 2
    assert said in capsys.readouterr().err
