"""What is said of a config that is legal and perhaps not meant."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from megascale.train.build import build_computation
from megascale.train.checks import batch_schedule_of
from megascale.train.distributed import Process
from megascale.train.remarks import remarks
from tests.tiny_run import MODEL, log_of, run_ranks, tiny_config


def said(config) -> list[str]:
    return remarks(config, batch_schedule_of(config, 1))


def test_nothing_is_said_of_a_run_that_decays(tmp_path):
    assert said(tiny_config(tmp_path)) == []


def test_a_wsd_run_that_never_decays(tmp_path):
    config = tiny_config(tmp_path, lr={"decay_tokens": 0})
    [only] = said(config)
    assert "without lr.decay_tokens never decays" in only


@pytest.mark.parametrize("kind", ["wsd", "constant"])
def test_a_final_ratio_that_no_decay_leads_to(tmp_path, kind):
    config = tiny_config(tmp_path, lr={"kind": kind, "decay_tokens": 0, "final_ratio": 0.0})
    assert "lr.final_ratio = 0 has no effect" in said(config)[-1]


def test_remarks_are_in_the_log_of_a_run_once(tmp_path):
    config = tiny_config(tmp_path, lr={"decay_tokens": 0})
    assert run_ranks(config) == [0]
    warnings = [e["message"] for e in log_of(config).events if e["kind"] == "warning"]
    assert [text for text in warnings if "never decays" in text] == said(config)


def test_every_sequence_length_stays_compiled(tmp_path, monkeypatch):
    """torch keeps eight compiled forms of a function and then runs it uncompiled in silence."""
    lengths = [32 + 2 * number for number in range(11)]
    table = ", ".join(
        f"{512 * number * 100}: {2 * length} @ {length}" for number, length in enumerate(lengths)
    )
    config = tiny_config(
        tmp_path,
        model=MODEL,
        train={"compile": "blocks", "total_tokens": 2_000_000},
        batch={"schedule": table, "max_rounding": 0.5},
    )
    settings = torch._dynamo.config
    monkeypatch.setattr(settings, "recompile_limit", settings.recompile_limit)
    monkeypatch.setattr(
        settings, "accumulated_recompile_limit", settings.accumulated_recompile_limit
    )
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(settings, "fail_on_recompile_limit_hit", True)
    [only] = said(config)
    assert "once for each of 11 sequence lengths" in only
    built = build_computation(config, Process(0, 1, 0, 1, torch.device("cpu")))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for length in lengths:
        tokens = torch.zeros(1, length, dtype=torch.long)
        built.parallel(tokens, tokens, doc_ids=None, balance_counts=None)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= len(lengths)
