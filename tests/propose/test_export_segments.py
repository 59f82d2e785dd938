"""A run a segment: the commands for torchtitan, and the arguments on transformers' own Trainer."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainerCallback, TrainingArguments

from megascale.propose.export import export
from megascale.propose.export_megatron import CannotExport
from megascale.schedule.batch import BatchSchedule, build_batch_schedule
from megascale.schedule.lr import LRSchedule
from megascale.schedule.points import parse_table
from tests.tiny_run import MODEL

TOTAL = 6144


def built(table: str = "0: 256, 2K: 512, 4K: 1024", **changes: Any) -> BatchSchedule:
    layout = {"sequence_length": 32, "micro_batch_size": 2, "data_parallel": 1}
    return build_batch_schedule(parse_table(table), total_tokens=TOTAL, **(layout | changes))


def wsd(warmup: int = 1024, decay: int = 1024, shape: str = "linear") -> LRSchedule:
    return LRSchedule("wsd", 1e-2, TOTAL, warmup, 0.0, decay, shape, 1e-3)  # type: ignore[arg-type]


def test_torchtitan_runs_end_at_the_segments_ends() -> None:
    schedule = built()
    lines = export(schedule, "torchtitan-segments", lr=wsd()).splitlines()
    runs = [shlex.split(line) for line in lines if line.startswith("./run_train.sh")]
    options = [dict(word[2:].split("=") for word in run if "=" in word) for run in runs]
    assert [run["training.num_tokens_per_train_step"] for run in options] == ["256", "512", "1024"]
    assert [run["training.steps"] for run in options] == ["8", "12", str(schedule.total_steps)]
    assert {run["training.num_tokens_per_microbatch_per_dp_rank"] for run in options} == {"64"}
    (common,) = [line for line in lines if line.startswith("common=(")]
    for word in ("warmup_steps=4", f"total_steps={schedule.total_steps}", "min_lr_factor=0.1"):
        assert f"--lr_scheduler.{word}" in common
    assert "--checkpoint.no-last-save-model-only" in common
    ratio = float(common.split("decay_ratio=")[1].split()[0])
    assert round(ratio * schedule.total_steps) == 1


@pytest.mark.parametrize("to", ["torchtitan-segments", "hf-segments"])
@pytest.mark.parametrize(
    ("schedule", "lr", "message"),
    [
        (built(), wsd(warmup=2304), r"outlasts the first batch.*--warmup"),
        (built(), wsd(decay=3072), "the decay begins before the last batch"),
        (built(), wsd(shape="exponential"), "no decay of shape exponential"),
        (built(), LRSchedule("cosine", 1e-2, TOTAL, 256, 0.0, TOTAL - 256), "of kind cosine"),
        (built(lr_coupling="sqrt"), wsd(), "one peak learning rate"),
        (built("0: 256, 2K: 512 @ 64"), wsd(), "sequences of one length"),
    ],
    ids=["warmup", "decay", "shape", "kind", "coupling", "length"],
)
def test_what_steps_cannot_say_is_refused(
    to: Any, schedule: BatchSchedule, lr: LRSchedule, message: str
) -> None:
    with pytest.raises(CannotExport, match=message):
        export(schedule, to, lr=lr)


def test_one_batch_exports_point_to_the_segments() -> None:
    for to in ("torchtitan", "hf"):
        with pytest.raises(CannotExport, match=f"--export {to}-segments"):
            export(built(), to)


class Sequences(Dataset):
    """Sequence `first + i` as item i; it begins with its number modulo 63."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __len__(self) -> int:
        return TOTAL // 32 - self.first

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        row = (torch.arange(32) + self.first + number) % 63
        return {"input_ids": row, "labels": row}


class InOrder(Trainer):
    """The stock trainer without shuffling; writes down what it trains on."""

    trained: list[int]

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.trained += inputs["input_ids"][:, 0].tolist()
        return super().training_step(model, inputs, num_items_in_batch)

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class Rates(TrainerCallback):
    """The learning rate of every optimizer step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_transformers_goes_through_the_segments(tmp_path: Path) -> None:
    schedule, lr = built(), wsd()
    trained: list[int] = []
    rates = Rates()
    for run in json.loads(export(schedule, "hf-segments", lr=lr))["runs"]:
        torch.manual_seed(0)
        trainer = InOrder(
            Qwen3ForCausalLM(Qwen3Config(**MODEL)),
            TrainingArguments(
                output_dir=str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True,
                **run["arguments"],
            ),
            train_dataset=Sequences(run["skip_samples"]),
            callbacks=[rates],
        )  # fmt: skip
        trainer.trained = trained
        trainer.train(resume_from_checkpoint=run["resume_from_checkpoint"])
        assert trainer.state.global_step == run["arguments"]["max_steps"]
    assert trained == [number % 63 for number in range(TOTAL // 32)]
    # Steps of 256, 512 and 1024 tokens; the Trainer takes a step's rate at its first token.
    starts = [schedule.tokens_at_step(step) for step in range(schedule.total_steps)]
    wanted = [lr.at(start) for start in starts]
    assert rates.rates == pytest.approx(wanted)
