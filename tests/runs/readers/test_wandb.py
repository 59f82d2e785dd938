"""W&B's table of runs, and the file that an offline run leaves."""

from __future__ import annotations

import json
import struct
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megascale.errors import DataError
from megascale.runs.readers import wandb
from megascale.runs.table import load_runs
from tests.runs.readers.helpers import kinds, read_as, recognised

RUNS = """\
"Name","State","Notes","User","Tags","Created","Runtime","Sweep","ID","batch_size",\
"learning_rate","_step","train/loss","val/loss"
"fancy-sweep-2","finished","-","me","","2025-01-01T00:00:00.000Z","3600","abc","i1","64","0.001",\
"1000","3.1","3.2"
"calm-sweep-1","crashed","-","me","","2025-01-01T00:00:00.000Z","1200","abc","i2","128","0.002",\
"500","3.5",""
"fancy-sweep-2","finished","-","me","","2025-01-01T00:00:00.000Z","3600","abc","i3","64","0.004",\
"1000","3.3","3.4"
"""


def test_a_table_of_runs_has_a_run_a_row(tmp_path):
    assert recognised(RUNS) == "wandb"
    path = tmp_path / "runs.csv"
    path.write_text(RUNS)
    loaded = load_runs(path, cache=False)
    columns = ("run", "step", "loss", "loss_kind", "lr", "batch_samples")
    assert sorted(loaded.table.select(columns).rows()) == [
        ("calm-sweep-1", 500, 3.5, "instantaneous", 0.002, 128),
        ("fancy-sweep-2", 1000, 3.1, "instantaneous", 0.001, 64),
        ("fancy-sweep-2", 1000, 3.2, "validation", 0.001, 64),
        ("fancy-sweep-2#i3", 1000, 3.3, "instantaneous", 0.004, 64),
        ("fancy-sweep-2#i3", 1000, 3.4, "validation", 0.004, 64),
    ]
    assert loaded.runs[0].meta.extra == {"sweep": "abc", "state": "finished", "id": "i1"}
    (note,) = [note for note in loaded.files[0].notes if note.kind == "unfinished"]
    assert "calm-sweep-1" in note.message


def offline_file(records: list[bytes]) -> bytes:
    """Records in W&B's file: blocks of 32 KiB, pieces with CRC-32, length and kind."""
    data = bytearray(b":W&B\xe1\xbe\x00")
    for record in records:
        rest, first = record, True
        while True:
            left = 32768 - len(data) % 32768
            if left < 7:
                data += bytes(left)
                continue
            piece, rest = rest[: left - 7], rest[left - 7 :]
            kind = (1 if not rest else 2) if first else (4 if not rest else 3)
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            first = False
            if not rest:
                break
    return bytes(data)


@pytest.fixture(scope="module")
def recorded() -> bytes:
    """An offline run of 3 steps, with a record longer than a block before the last."""
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")

    def items(record, values: dict) -> None:
        for key, value in values.items():
            item = record.add()
            item.key, item.value_json = key, json.dumps(value)

    records = []
    run = proto.Record()
    run.run.run_id, run.run.display_name = "abc", "lr3e-4"
    items(run.run.config.update, {"seq_length": 128, "lr": 3e-4})
    records.append(run)
    for step in (1, 2, 3):
        row = proto.Record()
        row.history.step.num = step
        values = {"train/loss": 10.0 - step, "tokens": step * 1024, "_runtime": step / 2}
        items(row.history.item, values)
        if step == 2:
            items(row.history.item, {"long": "x" * 100_000})
        records.append(row)
    end = proto.Record()
    items(end.summary.update, {"n_params": 12345})
    records.append(end)
    return offline_file([record.SerializeToString() for record in records])


def test_an_offline_run(recorded, tmp_path):
    folder = tmp_path / "offline-run-1"
    folder.mkdir()
    (folder / "run-abc.wandb").write_bytes(recorded)
    loaded = load_runs(tmp_path, cache=False)
    columns = ("step", "tokens", "samples", "loss", "seconds")
    assert loaded.table.select(columns).rows() == [
        (1, 1024, 8, 9.0, 0.5),
        (2, 2048, 16, 8.0, 0.5),
        (3, 3072, 24, 7.0, 0.5),
    ]
    meta = loaded.runs[0].meta
    assert (meta.n_params, meta.seq_length) == (12345, 128)
    assert meta.extra["name"] == "lr3e-4"


def test_an_offline_run_that_was_cut_or_damaged(recorded):
    whole = read_as(wandb, recorded).table["loss"].to_list()
    for size in range(300, len(recorded), 997):
        found = read_as(wandb, recorded[:size])
        assert found.table["loss"].to_list() == whole[: found.table.height]
        assert "torn" in kinds(found) or not found.malformed_count
    broken = bytearray(recorded)
    broken[40000] ^= 1  # in the long record: its block is left out, the next one is read
    found = read_as(wandb, bytes(broken))
    assert found.table["loss"].to_list() == [9.0, 7.0]
    assert "checksum" in found.malformed[0].reason


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(7, 2**17), st.integers(0, 255)), max_size=4), st.integers(0))
def test_any_damage_to_an_offline_run_is_reported(recorded, changes, cut):
    data = bytearray(recorded[: len(recorded) - cut % len(recorded)])
    for at, value in changes:
        if at < len(data):
            data[at] = value
    try:
        found = read_as(wandb, bytes(data))
    except DataError:
        return
    assert set(found.table["loss"].to_list()) <= {9.0, 8.0, 7.0}
    assert found.table.height == 3 or found.malformed_count or "torn" in kinds(found)


def test_without_wandbs_package_the_message_says_which_to_install(recorded, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb.proto", None)
    with pytest.raises(DataError, match=r"pip install 'megascale\[wandb\]'"):
        read_as(wandb, recorded)
