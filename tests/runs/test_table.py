"""From paths to the one table: discovery, runs of several files, the cache, worker processes."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import polars as pl
import pytest
import zstandard

from megascale.errors import ConfigError, DataError
from megascale.formats.run_log import RunLog
from megascale.runs import cache as cache_module
from megascale.runs import table as table_module
from megascale.runs.bundles import MOST_BUNDLES
from megascale.runs.export import export_table
from megascale.runs.overview import overview, overviews
from megascale.runs.readers.base import SCHEMA, ReadOptions
from megascale.runs.table import load_runs
from tests.formats.test_run_log import record
from tests.runs.readers.test_megatron import BLOCK, line
from tests.runs.readers.test_tensorboard import megatron_file


def own_run(folder: Path, name: str, steps: int = 3) -> Path:
    directory = folder / name
    directory.mkdir(parents=True)
    log = RunLog(directory, {"name": name, "total_tokens": 5000, "n_params": 7})
    for step in range(1, steps + 1):
        log.metrics(record(step))
    log.close()
    return directory


def megatron_log(steps=(10, 20), loss=2.5) -> bytes:
    return (BLOCK + "".join(line(step, loss=loss) for step in steps)).encode()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "logs"
    own = own_run(root, "mine")
    (own / "tensorboard").mkdir()
    (own / "tensorboard" / "events.out.tfevents.1.a").write_bytes(megatron_file())
    (root / "jobs").mkdir()
    (root / "jobs" / "a.out").write_bytes(megatron_log())
    (root / "jobs" / "b.log.gz").write_bytes(gzip.compress(megatron_log()))
    (root / "jobs" / "c.log.zst").write_bytes(zstandard.compress(megatron_log()))
    (root / "tb").mkdir()
    (root / "tb" / "events.out.tfevents.100.host").write_bytes(megatron_file((10, 20, 30)))
    (root / "tb" / "events.out.tfevents.200.host").write_bytes(megatron_file((20, 40), start=9.0))
    (root / "notes.txt").write_text("nothing here\n")
    (root / "commands.txt").write_text("torchrun -m megascale train a.yaml\n")  # of sweep --export
    (root / "weights.bin").write_bytes(b"\0" * 100)
    (root / "law.json").write_text('{"schema": "megascale.law/1", "name": "own"}')
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.log").write_bytes(megatron_log())
    return root


def test_a_tree_is_one_argument(tree):
    loaded = load_runs(tree, cache=False)
    assert {run.run: run.format for run in loaded.runs} == {
        "a": "megatron",
        "b": "megatron",
        "c": "megatron",
        "mine": "megascale",
        "tb": "tensorboard",
    }
    assert dict(loaded.table.schema) == SCHEMA
    assert [path.name for path, _ in loaded.skipped] == ["notes.txt"]
    a, b = (loaded.rows(name).drop("run", "source") for name in "ab")
    assert a.equals(b)
    assert a.equals(loaded.rows("c").drop("run", "source"))
    assert set(loaded.rows("b")["source"]) == {str(tree / "jobs" / "b.log.gz")}
    frame = loaded.run_frame().filter(pl.col("run") == "mine")
    assert frame.select("n_params", "d_tokens", "seq_length").row(0) == (7, 5000, 100)
    provenance = loaded.provenance(loaded.runs[0])[0]
    assert len(provenance["sha256"]) == 64


def test_event_files_of_a_directory_are_one_run_with_its_restart(tree):
    rows = load_runs(tree / "tb", cache=False).table
    train = rows.filter(pl.col("loss_kind") == "instantaneous")
    assert train.select("step", "loss").rows() == [(10, 4.0), (20, 9.0), (40, 8.75)]


def test_joined_logs_of_a_job_that_was_restarted(tmp_path):
    (tmp_path / "job-9.out").write_bytes(megatron_log((10, 20, 30, 40), loss=5))
    (tmp_path / "job-10.out").write_bytes(megatron_log((30, 50), loss=4))
    assert len(load_runs(tmp_path, cache=False).runs) == 2
    joined = load_runs(tmp_path, join=True, cache=False)
    assert len(joined.runs) == 1
    assert joined.table.select("step", "loss").rows() == [(10, 5), (20, 5), (30, 4), (50, 4)]


def test_checkpoints_of_a_huggingface_run_are_one_run(tmp_path):
    entries = [{"step": step, "loss": 5 - step / 100} for step in (10, 20, 30)]
    for count in (1, 2, 3):
        folder = tmp_path / "out" / f"checkpoint-{count * 500}"
        folder.mkdir(parents=True)
        state = {"log_history": entries[:count]}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    loaded = load_runs(tmp_path, cache=False)
    assert [run.run for run in loaded.runs] == ["out"]
    assert loaded.table["step"].to_list() == [10, 20, 30]


def test_globs_names_and_refusals(tree):
    loaded = load_runs(str(tree / "jobs" / "*.log.*"), cache=False)
    assert [run.run for run in loaded.runs] == ["b", "c"]
    with pytest.raises(DataError, match="matches nothing"):
        load_runs(str(tree / "*.nothing"))
    with pytest.raises(DataError, match="no such file"):
        load_runs(tree / "jobs" / "a.ou")
    with pytest.raises(DataError, match=r"notes\.txt: in no format that is recognised"):
        load_runs(tree / "notes.txt")
    with pytest.raises(DataError, match="format = nope"):
        load_runs(tree, format="nope")
    forced = load_runs(tree / "notes.txt", format="megatron", cache=False)
    assert forced.table.is_empty()


def test_same_names_in_different_places_get_longer_names(tmp_path):
    for folder, loss in (("small", 3), ("large", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "lr-1.csv").write_text(f"step,loss\n1,{loss}\n")
    names = [run.run for run in load_runs(tmp_path, cache=False).runs]
    assert sorted(names) == ["large/lr-1", "small/lr-1"]


def test_a_cut_gzip_gives_what_it_holds(tmp_path):
    whole = gzip.compress(megatron_log(tuple(range(10, 5000, 10))))
    path = tmp_path / "run.out.gz"
    path.write_bytes(whole[: len(whole) // 2])
    loaded = load_runs(path, cache=False)
    assert 0 < loaded.table.height < 499
    assert "torn" in {note.kind for note in loaded.files[0].notes}


def test_the_cache_is_keyed_by_content_and_options(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "SMALLEST_BYTES", 0)
    path = tmp_path / "run.out"
    path.write_bytes(megatron_log())
    store = tmp_path / "cache"
    fresh = load_runs(path, cache=store)
    files = sorted(name.name for name in (store / "runs").iterdir())
    assert len(files) == 2
    reads: list[str] = []
    reader = table_module.detect.READERS["megatron"]
    original = reader.read
    monkeypatch.setattr(reader, "read", lambda *args: reads.append("read") or original(*args))
    again = load_runs(path, cache=store)
    assert reads == []
    assert again.table.equals(fresh.table)
    assert again.runs == fresh.runs
    moved = path.rename(tmp_path / "moved.out")
    assert set(load_runs(moved, cache=store).table["source"]) == {str(moved)}
    assert reads == []
    load_runs(moved, cache=store, options=ReadOptions(seq_length=8))
    moved.write_bytes(megatron_log((10, 30)))
    assert load_runs(moved, cache=store).table["step"].to_list() == [10, 30]
    assert len(reads) == 2
    monkeypatch.setattr(cache_module, "READER_VERSION", 10**6)
    load_runs(moved, cache=store)
    assert len(reads) == 3
    for entry in (store / "runs").iterdir():  # damage is a miss, not an error
        entry.write_bytes(b"damage")
    assert load_runs(moved, cache=store).table.height == 2


def test_worker_processes_give_the_same_table(tree, monkeypatch):
    monkeypatch.setattr(table_module, "_POOL_FILES", 2)
    monkeypatch.setitem(os.environ, "MEGASCALE_CACHE", str(tree.parent / "cache"))
    alone = load_runs(tree, workers=1)
    many = load_runs(tree, workers=2)
    assert many.table.equals(alone.table)
    assert many.runs == alone.runs
    assert many.skipped == alone.skipped


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_exported_table_reads_back_as_itself(tree, tmp_path, suffix):
    loaded = load_runs(tree, cache=False)
    plain = export_table(loaded, tmp_path / f"plain{suffix}")
    path = export_table(loaded, tmp_path / f"table{suffix}", with_seconds=True)
    plain, frame = (
        pl.read_csv(one) if suffix == ".csv" else pl.read_parquet(one) for one in (plain, path)
    )
    assert frame.columns == list(SCHEMA)
    assert plain.columns == [name for name in SCHEMA if name != "seconds"]
    again = load_runs(path, cache=False)
    keep = [name for name in SCHEMA if name not in ("source", "line")]
    assert again.table.select(keep).equals(loaded.table.select(keep))
    wide = export_table(loaded, tmp_path / f"wide{suffix}", with_runs=True)
    assert load_runs(wide, cache=False).runs[-2].meta.n_params in (7, None)
    with pytest.raises(ConfigError, match="must end in"):
        export_table(loaded, tmp_path / "table.xlsx")


def small_logs(folder: Path, count: int) -> None:
    for number in range(count):
        own_run(folder, f"run-{number}", 3 + number)


def test_small_logs_come_from_shared_entries(tmp_path, monkeypatch):
    small_logs(tmp_path / "runs", 6)
    store = tmp_path / "cache"
    first = load_runs(tmp_path / "runs", cache=store)
    (index,) = store.glob("runs/small-*/*.json")
    monkeypatch.setattr(table_module, "read_file", None)  # nothing is read again
    again = load_runs(tmp_path / "runs", cache=store)
    assert again.table.equals(first.table)
    assert again.runs == first.runs
    assert [file.sha256 for file in again.files] == [file.sha256 for file in first.files]
    monkeypatch.undo()
    with (tmp_path / "runs" / "run-0" / "events.jsonl").open("a") as events:
        events.write('{"kind": "evaluation", "step": 3, "tokens": 3000, "loss": 2.5}\n')
    changed = load_runs(tmp_path / "runs", cache=store)
    assert changed.table.height == first.table.height + 1
    assert len(list(store.glob("runs/small-*/*.json"))) == 2
    index.with_suffix(".arrow").write_bytes(b"torn")
    index.write_text("[]")
    assert load_runs(tmp_path / "runs", cache=store).table.equals(changed.table)


def test_many_bundles_become_one(tmp_path):
    store = tmp_path / "cache"
    for count in range(2, MOST_BUNDLES + 3):
        small_logs(tmp_path / str(count), count)
        load_runs(sorted(tmp_path.glob("[0-9]*")), cache=store)
    assert len(list(store.glob("runs/small-*/*.json"))) <= MOST_BUNDLES
    assert len(list(store.glob("runs/small-*/*.arrow"))) <= MOST_BUNDLES


def test_all_overviews_at_once_are_those_one_by_one(tree):
    loaded = load_runs(tree, cache=False)
    assert overviews(loaded) == [overview(loaded, run) for run in loaded.runs]


def test_batches_of_a_log_of_evaluations_alone(tmp_path):
    path = tmp_path / "job.txt"
    path.write_text("".join(f"step:{step}/9 val_loss:4.0 train_time:1ms\n" for step in range(1, 5)))
    options = ReadOptions(batch_tokens=((0, 100), (2, 200)))
    (seen,) = overviews(load_runs(path, options=options, cache=False))
    assert [(part.batch_tokens, part.end_tokens) for part in seen.segments] == [
        (100, 200),
        (200, 600),
    ]
    assert [part.loss for part in seen.segments] == [None, None]
    assert (seen.loss, seen.validation_loss) == (None, 4.0)
