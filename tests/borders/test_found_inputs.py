"""Inputs that once ended in a traceback or a hang, each through its own reader."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from megascale.config import load_config
from megascale.data.indexed import TokenSource, check_vocab
from megascale.errors import UserError
from megascale.formats.law_file import read_law_file
from megascale.model.config import read_model_config
from megascale.runs.table import load_runs
from megascale.sweep.study import load_study


def _config(data: bytes, folder: Path, repository: Path) -> None:
    head, _, text = data.partition(b"\n----\n")
    named, overrides = ast.literal_eval(head.decode("utf-8", "surrogateescape"))
    file = folder / "file.yaml"
    file.write_bytes(text.replace(b"base: ../", f"base: {repository}/configs/".encode()))
    if "studies/" in named and "/base/" not in named:
        load_study(file)
    elif "models/" in named:
        quickstart = repository / "configs/quickstart.yaml"
        load_config(quickstart, [f"model.preset={file}", *overrides])
        read_model_config(file)
    else:
        load_config(file, overrides)


def _index(data: bytes, folder: Path, repository: Path) -> None:
    _, _, rest = data.partition(b"\n")
    index, _, sidecar = rest.rpartition(b"\n---\n")
    (folder / "t.idx").write_bytes(index)
    (folder / "t.meta.json").write_bytes(sidecar)
    for size in (100, 200, 7, 14, 166, 332, 112, 896):
        (folder / "t.bin").write_bytes(b"\1" * size)
        try:
            source = TokenSource("s", [folder / "t"])
            check_vocab(source, 512)
        except UserError:
            continue
        assert source.files[0].digest


def _law(data: bytes, folder: Path, repository: Path) -> None:
    file = folder / "law.json"
    file.write_bytes(data)
    law = read_law_file(file)
    law.to_json()
    law.evaluate(1e9, 1e10)


def _log(data: bytes, folder: Path, repository: Path) -> None:
    file = folder / "metrics.jsonl"
    file.write_bytes(data)
    load_runs([file], cache=False)


def _foreign(data: bytes, folder: Path, repository: Path) -> None:
    head, _, text = data.partition(b"\n----\n")
    file = folder / head.split(b"'")[1].decode()
    file.write_bytes(text)
    load_runs([file], cache=False)


KINDS = {"cfg": _config, "idx": _index, "law": _law, "own": _log, "readers": _foreign}


@pytest.mark.timeout(240)
def test_each_ends_in_an_answer_or_a_message(shared_data, tmp_path, repository):
    files = [
        file
        for file in sorted((shared_data / "fault_inputs").iterdir())
        if file.name.startswith(tuple(KINDS))
    ]
    assert len(files) > 80
    for file in files:
        kind = next(kind for kind in KINDS if file.name.startswith(kind))
        folder = tmp_path / file.name
        folder.mkdir()
        try:
            KINDS[kind](file.read_bytes(), folder, repository)
        except UserError as error:
            str(error).encode()
