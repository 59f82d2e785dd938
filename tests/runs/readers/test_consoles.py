"""Console logs of one record a line."""

from __future__ import annotations

import polars as pl
import pytest

from megascale.runs.readers import litgpt, nanochat, nanogpt, nanotron, olmo, torchtitan
from megascale.runs.readers.base import ReadOptions
from megascale.runs.table import load_runs
from tests.runs.readers.helpers import kinds, read_as, recognised

TITAN = (
    "[titan] 2025-06-01 12:00:00 - root - INFO - Model qwen3 0.6B size: 596,049,920 total "
    "parameters\n"
    "[titan] 2025-06-01 12:00:00 - root - INFO - Trainer is initialized with local batch size 8, "
    "global batch size 64, gradient accumulation steps 1, sequence length 4096, total steps 1000 "
    "(warmup 200)\n"
    "[rank0]:[titan] 2025-06-01 12:00:01 - root - INFO - \x1b[31mstep:  1  \x1b[32mloss: 11.83506"
    "  \x1b[38mgrad_norm:  9.6669  \x1b[34mmemory: 48.87GiB(51.44%)  tps: 4,376  mfu: N/A\x1b[39m\n"
    "[rank1]:[titan] 2025-06-01 12:00:01 - root - INFO - step:  1  loss: 11.83506"
    "  grad_norm:  9.6669  memory: 48.87GiB(51.44%)  tps: 4,376\n"
    "[titan] 2025-06-01 12:10:01 - root - INFO - step: 1,000  loss:  3.50000"
    "  grad_norm:  0.5000  memory: 48.87GiB(51.44%)  tps: 4,376\n"
    "[titan] 2025-06-01 12:10:02 - root - INFO - validate step: 1000  loss:  3.4000  "
    "memory: 48.87GiB(51.44%)  tps: 4,376\n"
)


def test_torchtitan():
    found = read_as(torchtitan, TITAN)
    assert recognised(TITAN) == "torchtitan"
    columns = ("step", "loss", "grad_norm", "loss_kind", "samples", "tokens")
    assert found.table.select(columns).rows() == [
        (1, 11.83506, 9.6669, "instantaneous", 64, 64 * 4096),
        (1000, 3.5, 0.5, "instantaneous", 64000, 64000 * 4096),
        (1000, 3.4, None, "validation", 64000, 64000 * 4096),
    ]
    meta = found.runs[0]
    assert (meta.n_params, meta.seq_length, meta.d_tokens) == (596049920, 4096, 64000 * 4096)


NANOTRON = (
    "06/01/2025 12:00:00 [INFO|DP=0|PP=0|TP=0]: iteration: 91 / 100 | consumed_tokens: 93.2K | "
    "time_per_iteration_ms: 90.4 | tokens_per_sec: 11.3K | global_batch_size: 1.02K | "
    "grad_norm: 1.4M | lr: 3.3e-05 | lm_loss: 9.2 | model_tflops_per_gpu: 0.784\n"
)


def test_nanotron_is_read_and_called_coarse():
    found = read_as(nanotron, NANOTRON)
    row = found.table.row(0, named=True)
    assert (row["step"], row["loss"], row["lr"], row["grad_norm"]) == (91, 9.2, 3.3e-5, 1.4e6)
    assert row["tokens"] is None  # 93.2K is no count
    (warning,) = [note for note in found.notes if note.kind == "coarse_precision"]
    assert "TensorBoard" in warning.message
    assert recognised(NANOTRON) == "nanotron"
    stated = read_as(nanotron, NANOTRON, ReadOptions(batch_tokens=1024))
    assert stated.table["tokens"].to_list() == [91 * 1024]


OLMO = (
    "2026-08-08 12:01:00\thost:0\tINFO\t[step=100/2,000,epoch=1,eta=5h11m]\n"
    "    optim/LR (group 0)=0.0003\n"
    "    optim/total grad norm=0.4321\n"
    "    throughput/total tokens=104,857,600\n"
    "    train/CE loss=6.234\n"
    "    train/PPL=511.9\n"
    "2026-08-08 12:01:01\thost:0\tINFO\tSaving checkpoint for step 100\n"
    "2026-08-08 12:02:00\thost:0\tINFO\t[step=1,100/2,000,epoch=1,eta=5h]\n"
    "    train/CE loss=5.9\n"
    "    eval/lm/c4-validation/CE loss=6.100\n"
    "    throughput/total tokens=1,153,433,600\n"
)


def test_olmo():
    found = read_as(olmo, OLMO)
    assert recognised(OLMO) == "olmo"
    columns = ("step", "tokens", "loss", "loss_kind", "lr", "grad_norm", "line")
    kind = "validation:eval/lm/c4-validation/CE loss"
    assert found.table.select(columns).rows() == [
        (100, 104857600, 6.234, "instantaneous", 0.0003, 0.4321, 1),
        (1100, 1153433600, 5.9, "instantaneous", None, None, 8),
        (1100, 1153433600, 6.1, kind, None, None, 8),
    ]


def test_nanogpt_after_its_own_source():
    source = 'print(f"step:{step}/{args.num_iterations} val_loss:{val_loss:.4f}")\n' * 20000
    log = (
        "step:0/1390 val_loss:10.8258 train_time:0ms step_avg:nanms\n"
        "step:1/1390 train_loss:10.5 train_time:100ms\n"
        "step:125/1390 val_loss:4.5012 train_time:7000ms step_avg:56ms\n"
    )
    found = read_as(nanogpt, source + log)
    assert recognised(source + log) == "nanogpt"
    assert found.table.select("step", "loss", "loss_kind").rows() == [
        (0, 10.8258, "validation"),
        (1, 10.5, "instantaneous"),
        (125, 4.5012, "validation"),
    ]
    llmc = "s:0 tel:11.0059\ns:1 trl:10.95 lr:0.000001 norm:12.3\ns:250 eval:0.25\n"
    found = read_as(nanogpt, llmc)
    assert found.table.select("step", "loss", "lr", "grad_norm").rows() == [
        (0, 11.0059, None, None),
        (2, 10.95, 1e-6, 12.3),  # after the step of number 1, the second
    ]


def test_litgpt_and_nanochat():
    text = (
        "Epoch 1 | iter 4 step 1 | loss train: 10.123, val: n/a | iter time: 12.34 ms (step)\n"
        "Epoch 1 | iter 8 step 2 | loss train: 9.123, val: n/a | iter time: 12.34 ms (step)\n"
        "iter 8: val loss 9.2000, val time: 100.00 ms\n"
        "Epoch 1 | iter 12 step 3 | loss train: 8.123, val: 9.200 | iter time: 12.34 ms (step)\n"
    )
    found = read_as(litgpt, text)
    assert recognised(text) == "litgpt"
    assert (2, 9.2, "validation") in found.table.select("step", "loss", "loss_kind").rows()
    assert found.table.height == 4
    chat = (
        "Number of parameters: 560,988,160\nTotal batch size 524,288 => gradient accumulation: 1\n"
        "step 00010/01000 (1.00%) | loss: 5.123456 | lrm: 1.00 | dt: 10.00ms | tok/sec: 1,234\n"
    )
    found = read_as(nanochat, chat)
    assert recognised(chat) == "nanochat"
    row = found.table.row(0, named=True)
    assert (row["step"], row["loss"], row["loss_kind"]) == (11, 5.123456, "ema")
    assert row["tokens"] == 11 * 524288
    assert found.runs[0].n_params == 560988160


@pytest.mark.parametrize(
    ("reader", "text", "whole"),
    [(torchtitan, TITAN, 6), (nanotron, NANOTRON, 1), (olmo, OLMO, 11)],
)
def test_a_cut_log_gives_no_false_number(reader, text, whole):
    """Whatever the place of the cut, every row is a row of the whole log."""
    rows = set(read_as(reader, text).table.drop("line", "source").rows())
    for size in range(0, len(text), 3):
        table = read_as(reader, text[:size]).table
        for row in table.drop("line", "source").rows():
            assert row[:2] in {one[:2] for one in rows}
            assert any(row[7] == one[7] for one in rows), (size, row)


def test_a_loss_that_is_not_finite_is_counted_not_read():
    text = TITAN.replace("loss:  3.50000", "loss:      nan")
    found = read_as(torchtitan, text)
    assert found.table.height == 2
    assert "nonfinite_loss" in kinds(found)


def test_times_of_lines_become_wall_clock(tmp_path):
    lines = [
        "[titan] 2025-06-01 23:59:58,500 - root - INFO - step:  1  loss: 9.0  grad_norm: 1",
        "[rank1]:[titan] 2025-06-01 23:59:58,700 - root - INFO - step:  1  loss: 9.0  grad_norm: 1",
        "[titan] 2025-06-02 00:00:03,700 - root - INFO - step: 10  loss: 8.0  grad_norm: 1",
        "[rank1]:[titan] 2025-06-02 00:00:03,900 - root - INFO - step: 10  loss: 8.0  grad_norm: 1",
        "[titan] 2025-06-02 00:00:04,000 - root - INFO - validate step: 10  loss: 8.5  memory: 1",
        "[titan] 2025-13-02 00:00:06,900 - root - INFO - step: 20  loss: 7.0  grad_norm: 1",
    ]
    path = tmp_path / "job.log"
    path.write_text("\n".join(lines) + "\n")
    table = load_runs(path, cache=False).table
    train = table.filter(pl.col("loss_kind") == "instantaneous")
    assert train["seconds"].to_list() == [None, pytest.approx(5.2), None]
    assert table.filter(pl.col("loss_kind") == "validation")["seconds"].to_list() == [None]
