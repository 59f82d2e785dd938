"""Trailing loads: a function of the stream's position, whatever the cut; kept over restarts."""

from __future__ import annotations

import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megascale.data.loader import LoadedMicroBatch, LoadedStep
from megascale.errors import LayoutError
from megascale.model.config import ModelConfig
from megascale.model.moe import count_slots
from megascale.model.qwen3 import Qwen3
from megascale.train.balance import ExpertBalance
from megascale.train.checks import check_run
from tests.tiny_run import MOE, log_of, run_ranks, signal_at, tiny_config

EXPERTS, TOP_K, WINDOW, TOTAL = 4, 2, 48, 400


def balance() -> ExpertBalance:
    with torch.device("meta"):
        model = Qwen3(ModelConfig(**{**MOE, "num_hidden_layers": 1}))
    return ExpertBalance(
        model, window_tokens=WINDOW, trails=True, bias_rate=0.0, device=torch.device("cpu")
    )


def loads_met(routed: torch.Tensor, batches: list[int], rows: int, skipped: int) -> list[list[int]]:
    """Loads that each token's balance loss uses, as a run of these batches finds them."""
    state, met, start = balance(), [], 0
    for number, size in enumerate(batches):
        stop = min(start + size, TOTAL)
        step = LoadedStep(number, start, stop, stop - start, 0, ())
        windows = torch.zeros(1, 2, EXPERTS, dtype=torch.int64)
        for first in range(start, start + size, rows):
            tokens = routed[first : first + rows]
            batch = LoadedMicroBatch(torch.zeros(1, len(tokens)), torch.zeros(0), None, first)
            trailing = state.trailing(step, batch)
            assert trailing is not None
            split, end = trailing.split, trailing.end
            for token in range(end):
                met.append(trailing.counts[0, 0 if token < split else 1].tolist())
            for row, part in enumerate((tokens[:split], tokens[split:end])):
                windows[0, row] += count_slots(part, EXPERTS)
        if start <= skipped < stop:
            state.skip(start, stop)
        else:
            state.update(windows.sum(1), windows, start, stop)
        start = stop
    return met


@given(
    st.lists(st.sampled_from([8, 16, 24, 32, 40, 48]), min_size=60, max_size=60),
    st.sampled_from([4, 8]),
)
def test_the_loads_a_token_meets_follow_from_its_place_in_the_stream(sizes, rows):
    generator = torch.Generator().manual_seed(0)
    routed = torch.randint(0, EXPERTS, (TOTAL + 100, TOP_K), generator=generator)
    batches, consumed = [], 0
    while consumed < TOTAL:
        batches.append(sizes[len(batches)])
        consumed += batches[-1]
    expected = []
    for token in range(TOTAL):
        before_last = token // WINDOW - 2
        window = routed[before_last * WINDOW : (before_last + 1) * WINDOW]
        counts = count_slots(window, EXPERTS) if before_last >= 0 else torch.zeros(EXPERTS)
        expected.append(counts.tolist())
    assert loads_met(routed, batches, rows, skipped=-1) == expected


def test_windows_go_on_past_a_skipped_step():
    routed = torch.randint(0, EXPERTS, (TOTAL + 100, TOP_K))
    met = loads_met(routed, [40] * 10, 8, skipped=85)  # the step from 80 to 120
    window = torch.cat([routed[48:80], routed[120:96]])
    assert met[150] == count_slots(window, EXPERTS).tolist()
    assert met[3 * WINDOW - 1] == count_slots(routed[:48], EXPERTS).tolist()


def trailing_config(folder, name, window=600):
    return tiny_config(
        folder, name=name, moe_balance={"window_tokens": window, "window_loads": "trailing"}
    )


def test_trailing_loads_come_back_from_a_checkpoint(tmp_path):
    whole, halted = trailing_config(tmp_path, "whole"), trailing_config(tmp_path, "halted")
    assert run_ranks(whole) == [0]
    assert run_ranks(halted, prepare=signal_at(17, signal.SIGTERM)) == [75]
    assert run_ranks(halted) == [0]
    expected, found = log_of(whole), log_of(halted)
    for key in ("loss", "grad_norm", "aux_loss"):
        assert found.column(key) == expected.column(key)
    even = tiny_config(
        tmp_path, name="own", moe_balance={"window_tokens": None, "window_loads": "own"}
    )
    assert run_ranks(even) == [0]
    assert log_of(even).column("grad_norm") != expected.column("grad_norm")


def test_two_ranks_meet_the_same_loads_as_one(tmp_path):
    alone, together = trailing_config(tmp_path, "alone"), trailing_config(tmp_path, "together")
    assert run_ranks(alone) == [0]
    assert run_ranks(together, 2) == [0, 0]
    for key in ("loss", "aux_loss"):
        assert log_of(together).column(key) == pytest.approx(log_of(alone).column(key), rel=1e-5)


def test_a_batch_longer_than_a_trailing_window_is_refused_before_anything_starts(tmp_path):
    config = trailing_config(tmp_path, "short", window=64)
    with pytest.raises(LayoutError, match="no smaller than the largest batch") as refusal:
        check_run(config, 1)
    offered = int(str(refusal.value).split("Nearest legal: ")[1].rstrip("."))
    check_run(trailing_config(tmp_path, "long", window=offered), 1)
