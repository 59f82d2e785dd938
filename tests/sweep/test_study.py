"""Studies: which runs a file means, and that every study in the project is legal at every scale."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from megascale.errors import ConfigError, UserError
from megascale.sweep.expand import expand
from megascale.sweep.plan import plan_runs
from megascale.sweep.study import Axis, LogGrid, load_study, tree_of
from tests.sweep.small_study import write_study

STUDIES = sorted(Path("configs/studies").glob("*.yaml"))
SCALES = ("smoke", "workstation", "paper")
CPU_SCALE = ("fitting_vs_transfer", "noise_laws")
"""Studies that ask what a few widths and batches on a CPU tell."""


def runs_of(path: Path, scale: str = "smoke", overrides: tuple[str, ...] = ()):
    at = load_study(path).at(scale)
    return expand(at, path, path.parent / "out", overrides)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_is_legal_at_every_scale(path, scale):
    study = load_study(path)
    assert study.name == path.stem
    assert ("paper" in study.scales) == (study.name not in CPU_SCALE)
    if scale not in study.scales:
        return
    at = study.at(scale)
    plans = plan_runs(expand(at, path, Path("out")), at.block)
    assert len({plan.run.name for plan in plans}) == len(plans) >= 3
    assert all(plan.steps > 0 and plan.seconds for plan in plans)
    if scale == "smoke":  # what CI has time for, on one core with the imports of each run
        assert sum(plan.tokens for plan in plans) <= 1_000_000
        assert len(plans) <= 12
    if scale == "paper":
        assert all(plan.tokens >= 20_000_000_000 for plan in plans)


def test_there_is_a_study_for_every_ablation():
    assert {path.stem for path in STUDIES} == {
        "batch_size",
        "dynamic_batch",
        "lr_coupling",
        "sequence_length",
        "weight_decay",
        "cosine",
        "learning_rate",
        "noise_laws",
        "fitting_vs_transfer",
        "step_law",
        "schedule_fit",
        "schedule_held_out",
        "schedule_planned",
    }


def test_the_papers_table_at_the_papers_sizes():
    path = Path("configs/studies/dynamic_batch.yaml")
    at = load_study(path).at("paper")
    plans = {plan.run.name: plan for plan in plan_runs(expand(at, path, Path("out")), at.block)}
    table, decay = plans["table_moe"], plans["table-decay_moe"]
    assert [batch / 1e6 for batch in table.batches] == pytest.approx([2, 4, 5, 6], rel=0.05)
    assert (table.tokens, decay.tokens) == (500 * 10**9, 100 * 10**9)
    assert decay.batches == table.batches[-1:]
    assert (table.parameters, table.active) == pytest.approx((4.0e9, 538e6), rel=0.02)
    assert table.run.config.lr.peak == decay.run.config.lr.peak == 6e-4
    assert decay.run.parent == "table_moe"
    assert decay.run.config.lr.final_ratio == 0.1


def test_both_ways_of_growing_take_equal_tokens_a_step():
    path = Path("configs/studies/sequence_length.yaml")
    for scale in SCALES:
        at = load_study(path).at(scale)
        plans = plan_runs(expand(at, path, Path("out")), at.block)
        by_name = {plan.run.name: plan for plan in plans}
        pairs = [name for name in by_name if name.startswith("micro-batches")]
        assert pairs
        for name in pairs:
            longer = by_name[name.replace("micro-batches", "sequence-length")]
            assert longer.batches == by_name[name].batches
            assert longer.steps == by_name[name].steps


def test_runs_are_the_product_of_arms_and_axes(tmp_path):
    path = write_study(
        tmp_path,
        axes={
            "lr": {"key": "lr.peak", "values": [0.01, 0.02]},
            "seed": {"seeds": [3, 5]},
        },
        arms={
            "plain": {},
            "wide": {"settings": {"model.intermediate_size": 64, "weight_decay": {"value": 0.0}}},
        },
    )
    runs = {run.name: run for run in runs_of(path)}
    assert len(runs) == 8
    run = runs["wide_lr-0.02_seed-5"]
    assert (run.config.lr.peak, run.seed, run.config.model.intermediate_size) == (0.02, 5, 64)
    assert run.config.weight_decay.value == 0.0
    assert run.config.weight_decay.exclude == ["norm", "bias"]
    assert (run.group, run.point) == ("wide lr-0.02", {"lr": "lr-0.02"})
    assert run.config.name == run.name
    assert runs["plain_lr-0.01_seed-3"].config.model.intermediate_size == 32


def test_scales_overrides_and_points_lie_on_top_of_each_other(tmp_path):
    path = write_study(
        tmp_path,
        settings={"batch.schedule": "0: 128", "lr.peak": 0.1},
        axes={"batch": {"key": "batch.schedule.0", "values": [256, "512"]}},
        arms={"a": {"settings": {"lr.peak": 0.2, "weight_decay.value": 0.3}}, "b": {}},
        scales={
            "smoke": {"settings": {"lr.warmup_tokens": 512}, "arms": {"a": {"lr.peak": 0.4}}},
            "paper": {"arms": {"b": None}, "axes": {"batch": None}},
        },
    )
    runs = {run.name: run.config for run in runs_of(path, overrides=("weight_decay.value=0.5",))}
    assert set(runs) == {"a_batch-256", "a_batch-512", "b_batch-256", "b_batch-512"}
    assert runs["a_batch-512"].lr.peak == 0.4
    assert runs["b_batch-512"].lr.peak == 0.1
    assert runs["b_batch-512"].lr.warmup_tokens == 512
    assert runs["a_batch-512"].weight_decay.value == 0.5
    assert [point.batch_tokens for point in runs["a_batch-512"].batch.schedule] == [512]
    assert [run.name for run in runs_of(path, "paper")] == ["a"]


def test_a_branch_ends_where_its_decay_does_and_counts_its_own_tokens_only(tmp_path):
    path = write_study(
        tmp_path,
        arms={
            "decay": {"branch_from": "stable", "settings": {"lr.decay_tokens": 1024}},
            "stable": {"settings": {"batch.schedule": "0: 256, 2048: 512"}},
        },
    )
    runs = runs_of(path)
    assert [run.name for run in runs] == ["stable", "decay"]  # parents first
    assert runs[1].config.train.total_tokens == 4096 + 1024
    plans = plan_runs(runs, load_study(path).at("smoke").block)
    assert (plans[1].tokens, plans[1].steps, plans[1].batches) == (1024, 2, (512,))
    assert plans[0].steps == 2048 // 256 + 2048 // 512


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": {"a": {"branch_from": "stabel"}, "stable": {}}}, "stabel is no arm"),
        ({"arms": {"a": {"branch_from": "stable"}, "stable": {}}}, "a branch decays"),
        (
            {"arms": {"a": {"branch_from": "s"}, "s": {"settings": {"lr.kind": "cosine"}}}},
            "ends in its stable phase",
        ),
        ({"axes": {"x": {"key": "lr.peak", "values": [1.0], "seeds": 2}}}, "exactly one of"),
        ({"axes": {"x": {"values": [1.0]}}}, "key goes with"),
        ({"axes": {"x": {"zip": {"seed": [1], "lr.peak": [1.0, 2.0]}}}}, "equally long"),
        ({"axes": {"x": {"key": "lr.peak", "values": [1.0, 1.0]}}}, "two points are alike"),
        ({"axes": {"x": {"key": "lr.peek", "values": [1.0]}}}, "Did you mean lr.peak"),
        ({"axes": {"x": {"key": "lr.peak", "values": [-1.0]}}}, "lr.peak = -1.0"),
        ({"finish": {"optimum": "batch"}}, "no such axis"),
        ({"finish": {"optimun": "lr"}}, "Did you mean finish.optimum"),
        ({"axes": {}}, "axes or arms"),
        ({"scales": {"smoke": {"arms": {"b": {}}}}}, "no such arm"),
        ({"scales": {"smoke": {"ranks": 3}}, "settings": {"batch.rounding": "exact"}}, "Nearest"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, words):
    path = write_study(tmp_path, **changes)
    with pytest.raises(UserError, match=words):
        plan_runs(runs_of(path), load_study(path).at("smoke").block)


def test_unknown_scale_and_missing_file(tmp_path):
    path = write_study(tmp_path)
    with pytest.raises(ConfigError, match="paper: study small has smoke"):
        load_study(path).at("paper")
    with pytest.raises(ConfigError, match=r"cannot be read.*Nearest legal: .*small\.yaml"):
        load_study(path.with_name("smal.yaml"))


def test_log_grids_hit_their_ends_and_keep_the_kind():
    assert LogGrid(start="64K", stop="1024K", count=5).values() == [
        64_000,
        128_000,
        256_000,
        512_000,
        1_024_000,
    ]
    values = LogGrid(start=1e-3, stop=3.2e-2, count=6).values()
    assert values == pytest.approx([1e-3 * 2**index for index in range(6)], rel=1e-3)
    with pytest.raises(ValueError, match="positive"):
        LogGrid(start=0, stop=1, count=3)


def test_zip_goes_in_step_and_seeds_count_from_one():
    axis = Axis(zip={"a.b": [1, 2], "c": ["x", "y"]})
    assert axis.points() == [{"a.b": 1, "c": "x"}, {"a.b": 2, "c": "y"}]
    assert [point["seed"] for point in Axis(seeds=3).points()] == [1, 2, 3]


def test_dotted_keys_become_sections():
    assert tree_of({"a.b": 1, "a": {"c": 2}, "a.d.e": 3}) == {"a": {"b": 1, "c": 2, "d": {"e": 3}}}
    with pytest.raises(ConfigError, match="plain value"):
        tree_of({"a": 1, "a.b": 2})


def test_dry_run_and_export_start_nothing(tmp_path, capsys):
    from megascale.cli import main

    path = write_study(
        tmp_path,
        arms={
            "stable": {},
            "decay": {"branch_from": "stable", "settings": {"lr.decay_tokens": 1024}},
        },
    )
    out = tmp_path / "never"
    with pytest.raises(SystemExit) as left:
        main(["sweep", str(path), "-o", str(out), "--dry-run", "--json"])
    assert left.value.code == 0
    plan = yaml.safe_load(capsys.readouterr().out)
    assert [run["tokens"] for run in plan["runs"]] == [4096, 1024]
    assert not out.exists()
    with pytest.raises(SystemExit):
        main(["sweep", str(path), "-o", str(out), "--export", str(tmp_path / "export")])
    commands = (tmp_path / "export" / "commands.txt").read_text().splitlines()
    assert len(commands) == 2
    assert "--branch-decay" in commands[1]
    assert "tokens-4096" in commands[1]
    assert (tmp_path / "export" / "decay.yaml").is_file()
    assert not out.exists()
