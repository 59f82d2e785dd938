"""`megascale coordinates`: a sentence a parametrization, a table, JSON and a figure."""

from __future__ import annotations

import json

import pytest

from tests.verbs.scene import call

CONFIG = """
model: {vocab_size: 64, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1,
        num_attention_heads: 2, num_key_value_heads: 2, head_dim: 16}
data: {sources: {a: {path: nowhere}}, phases: [{start_tokens: 0, mixture: {a: 1.0}}]}
train: {total_tokens: 100K, sequence_length: 32}
batch: {schedule: "0: 128"}
lr: {peak: 0.004, kind: constant, warmup_tokens: 0}
"""


@pytest.fixture
def config(tmp_path) -> str:
    file = tmp_path / "run.yaml"
    file.write_text(CONFIG)
    return str(file)


def test_the_verdict_comes_first(config, tmp_path, capsys):
    figure = tmp_path / "widths.png"
    assert call(["coordinates", config, "--widths", "32,64,128", "--plot", str(figure)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("standard: updates of activations follow the width")
    assert lines[1].startswith("mup: updates of activations do not follow the width")
    assert figure.read_bytes()[:4] == b"\x89PNG"


def test_json_holds_every_number(config, capsys):
    assert call(["coordinates", config, "--depths", "1,2", "--kinds", "completep", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["along"] == "depth"
    assert {one["depth"] for one in document["coordinates"]} == {1, 2}
    assert {slope["kind"] for slope in document["slopes"]} == {"completep"}
    assert len(document["verdicts"]) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--widths"),
        (["--widths", "32,64", "--depths", "1,2"], "--widths"),
        (["--widths", "32"], "two sizes"),
        (["--widths", "32,x"], "whole sizes"),
        (["--widths", "32,40"], "does not scale"),
        (["--widths", "32,64", "--kinds", "sp"], "must be standard, mup or completep"),
    ],
)
def test_what_cannot_be_compared_is_refused(config, options, words, capsys):
    assert call(["coordinates", config, *options]) == 2
    assert words in capsys.readouterr().err
