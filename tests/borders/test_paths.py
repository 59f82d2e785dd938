"""Names of files that no file can have, or that are not UTF-8, end in one message."""

from __future__ import annotations

import os

import pytest

from megascale.config import load_config
from megascale.data.indexed import TokenSource
from megascale.errors import ConfigError, DataError, UserError
from megascale.formats.law_file import read_law_file
from megascale.model.config import read_model_config
from megascale.runs.inputs import recognise
from megascale.runs.table import load_runs
from megascale.shipped import legal_path
from megascale.sweep.study import load_study

READERS = {
    "config": load_config,
    "law": read_law_file,
    "study": load_study,
    "preset": read_model_config,
    "logs": lambda path: load_runs([path], cache=False),
    "tokens": lambda path: TokenSource("a", [path]),
    "any": recognise,
}
NAMES = {
    "long name": ("a" * 5000, "at most 255 bytes"),
    "long path": ("/".join(["a" * 200] * 30), "at most 4096 bytes"),
    "NUL": ("a\0b", "no NUL character"),
    "not UTF-8": (os.fsdecode(b"a\xffb.log"), "must be UTF-8"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", NAMES)
def test_every_reader(reader, name):
    path, said = NAMES[name]
    with pytest.raises(UserError, match=said) as caught:
        READERS[reader](path)
    str(caught.value).encode()


def test_legal_names_pass():
    assert legal_path("é" * 127, "x").name == "é" * 127
    with pytest.raises(ConfigError, match="256"):
        legal_path("é" * 128, "x")


def test_a_name_that_is_not_utf8_in_a_tree_of_logs(tmp_path):
    (tmp_path / "good.csv").write_text("step,loss\n1,5\n")
    bad = os.path.join(os.fsencode(tmp_path), b"bad\xff.csv")
    with open(bad, "wb") as file:
        file.write(b"step,loss\n1,5\n")
    with pytest.raises(DataError, match="must be UTF-8"):
        load_runs([tmp_path], cache=False)


def test_overrides_that_are_not_utf8(repository):
    word = os.fsdecode(b"name=a\xff")
    with pytest.raises(ConfigError, match="must be UTF-8"):
        load_config(repository / "configs/quickstart.yaml", [word])


def test_a_diamond_of_bases_is_read_in_no_time(tmp_path):
    (tmp_path / "0.yaml").write_text("name: a\n")
    for level in range(1, 19):
        (tmp_path / f"{level}.yaml").write_text(f"base: [{', '.join([f'{level - 1}.yaml'] * 9)}]\n")
    from megascale.config.compose import compose

    assert compose(tmp_path / "18.yaml") == {"name": "a"}


def test_a_long_chain_of_bases_is_refused(tmp_path):
    for level in range(300):
        (tmp_path / f"{level}.yaml").write_text(f"base: {level + 1}.yaml\n")
    with pytest.raises(ConfigError, match="below each other"):
        load_config(tmp_path / "0.yaml")
