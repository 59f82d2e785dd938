"""`megascale eval` against scores worked out by hand from the checkpoint's own logits."""

from __future__ import annotations

import importlib.util
import json
import string
from pathlib import Path

import pytest
import torch

from megascale.downstream.questions import read_questions
from megascale.formats.task_scores import TASKS_FILE, read_scores
from megascale.model.config import ModelConfig
from megascale.model.qwen3 import Qwen3
from megascale.train.checkpoint import list_checkpoints, read_state
from megascale.train.export import saved_parameters
from tests.tiny_run import MODEL, run_ranks, tiny_config
from tests.verbs.scene import call

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed"
)
LETTERS = string.ascii_letters + "0123456789"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run with two checkpoints, its tokenizer and twelve questions."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("eval")
    kinds = {letter: number for number, letter in enumerate([*LETTERS, " "][:62])}
    tokenizer = Tokenizer(models.WordLevel(kinds | {"?": 62, "<end>": 63}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    config = tiny_config(
        folder,
        model=dict(MODEL),
        train={"total_tokens": 10240},
        batch={"schedule": "0: 256"},
        lr={"decay_tokens": 0},
        checkpoint={"interval_steps": 20},
    )
    assert run_ranks(config) == [0]
    words = [string.ascii_lowercase[k : k + 5] for k in range(12)]
    lines = [
        {
            "question": f"after {word}",
            "choices": [word[::-1], word.upper(), word[1:] + "z"][: 2 + k % 2],
            "answer": "AB"[k % 2],
        }
        for k, word in enumerate(words)
    ]
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def hand_score(checkpoint: Path, folder: Path) -> tuple[float, float]:
    """Accuracy and its standard error by the most likely letter after each prompt."""
    from tokenizers import Tokenizer

    config = ModelConfig(**read_state(checkpoint)["model"])
    model = Qwen3(config)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in saved_parameters(checkpoint, config):
            own[name].copy_(value)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    right = []
    for one in read_questions(folder / "own.jsonl"):
        shown = "".join(f"{a}. {c}\n" for a, c in zip("ABC", one["choices"]))
        prompt = f"{one['question']}\n{shown}Answer:"
        sums = []
        for letter in "ABC"[: len(one["choices"])]:
            ids = tokenizer.encode(f"{prompt} {letter}").ids
            before = len(tokenizer.encode(prompt).ids)
            with torch.no_grad():
                logits = model(torch.tensor([ids])).log_softmax(-1)[0]
            sums.append(sum(float(logits[k - 1, ids[k]]) for k in range(before, len(ids))))
        right.append(float(sums.index(max(sums)) == one["answer"]))
    mean = sum(right) / len(right)
    return mean, (mean * (1 - mean) / (len(right) - 1)) ** 0.5


@needs_harness
def test_every_checkpoint_is_scored_once_and_right(trained: Path, capsys):
    run = trained / "runs" / "tiny"
    words = [str(run), "--task-file", str(trained / "own.jsonl")]
    words += ["--tokenizer", str(trained / "tokenizer.json"), "--shots", "0,1"]
    assert call(["eval", *words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    checkpoints = list_checkpoints(run / "checkpoints")
    assert len(checkpoints) == 2
    plain = {one["tokens"]: one for one in said["scores"] if one["shots"] == 0}
    assert sorted(plain) == [saved.tokens for saved in checkpoints]
    for saved in checkpoints:
        value, error = hand_score(saved.path, trained)
        assert plain[saved.tokens]["value"] == pytest.approx(value)
        assert plain[saved.tokens]["stderr"] == pytest.approx(error)
        assert plain[saved.tokens]["samples"] == 12
    before = (run / TASKS_FILE).read_bytes()
    assert call(["eval", *words]) == 0  # nothing is asked again
    out = capsys.readouterr()
    assert "checkpoint 1 of" not in out.err
    assert out.out.startswith("own, 0 shots: acc ")
    assert (run / TASKS_FILE).read_bytes() == before
    assert len(read_scores(run)) == 4
    assert call(["runs", "show", str(run)]) == 0
    assert "own, 0 shots: acc " in capsys.readouterr().out


@needs_harness
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "says nothing to ask"),
        (["--tasks", "mmlux"], "is no task of lm-evaluation-harness"),
        (["--tasks", "mmlu", "--shots", "five"], "whole numbers from 0 to 100"),
        (["--task-file", "gone.jsonl"], "cannot be read"),
        (["--task-file", "own.jsonl", "--eos-id", "64"], "below the vocabulary size 64"),
        (["--task-file", "own.jsonl"], "names no tokenizer"),
    ],
)
def test_bad_words_are_one_message(trained: Path, words, says, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    more = ["--tokenizer", "tokenizer.json"] if "--eos-id" in words or "--tasks" in words else []
    assert call(["eval", "runs/tiny", *words, *more]) == (3 if says == "cannot be read" else 2)
    assert says in capsys.readouterr().err


def test_the_extra_is_named_where_it_is_missing(trained: Path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words = ["eval", str(trained / "runs" / "tiny"), "--tasks", "mmlu"]
    assert call(words) == 2
    assert "pip install 'megascale[eval]'" in capsys.readouterr().err


@needs_harness
def test_what_is_no_run_is_refused(tmp_path: Path, capsys):
    (tmp_path / "q.jsonl").write_text('{"question": "q", "choices": ["a", "b"], "answer": "A"}')
    assert call(["eval", str(tmp_path), "--task-file", str(tmp_path / "q.jsonl")]) == 2
    assert "neither a run directory" in capsys.readouterr().err
