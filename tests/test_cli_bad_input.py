"""Bad input as a user meets it: one message, the right exit code, every file as it was."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from megascale import cli
from tests.conftest import REPOSITORY
from tests.verbs.scene import CONFIG, call, call_on_ranks, make_scene, tree

Damage = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A command line that must be refused.

    Attributes:
        words: after `megascale train run.yaml`, or from `megascale` on where `whole`.
        said: parts of the message: key, value, rule, nearest legal value.
        damage: what is done to the folder first.
    """

    name: str
    words: str
    code: int
    said: tuple[str, ...]
    damage: Damage = field(default=lambda folder: None)
    whole: bool = False

    @property
    def arguments(self) -> list[str]:
        words = [word for word in self.words.split(";") if word]
        return words if self.whole else ["train", "run.yaml", *words]


def text(name: str, content: str | bytes) -> Damage:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str, size: int) -> Damage:
    return lambda folder: os.truncate(folder / name, size)


def poke(name: str, at: int, data: bytes) -> Damage:
    def damage(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.seek(at)
            file.write(data)

    return damage


def remove(*names: str) -> Damage:
    return lambda folder: [(folder / name).unlink() for name in names]


def foreign_id(folder: Path) -> None:
    """A token id outside the vocabulary, in a file that carries no sidecar."""
    (folder / "web.meta.json").unlink()
    poke("web.bin", 0, struct.pack("<H", 64))(folder)


def empty_source(folder: Path) -> None:
    header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, 0, 1)
    (folder / "web.idx").write_bytes(header + struct.pack("<q", 0))
    (folder / "web.bin").write_bytes(b"")
    (folder / "web.meta.json").unlink()


def files(*cases: tuple[str, str, tuple[str, ...], Damage]) -> list[Case]:
    """Config files that cannot be read: the file itself is the value."""
    return [
        Case(name, f"train;{file}", 2, said, damage, whole=True)
        for name, file, said, damage in cases
    ]


def nothing(folder: Path) -> None:
    pass


FILES = files(
    ("missing", "rum.yaml", ("config = rum.yaml", "no such file", "run.yaml"), nothing),
    ("directory", ".", ("config = .", "is a directory", "Nearest legal: run.yaml"), nothing),
    ("syntax", "a.yaml", ("a.yaml", "not valid YAML", "line 2"), text("a.yaml", "a: [1,\n")),
    ("encoding", "a.yaml", ("a.yaml", "cannot be read", "utf-8"), text("a.yaml", b"a: \xff\n")),
    ("list", "a.yaml", ("a.yaml", "mapping of sections, not list"), text("a.yaml", "- 1\n")),
    ("empty", "a.yaml", ("model: is required", "train: is required"), text("a.yaml", "")),
    ("twice", "a.yaml", ("key 'seed' is given twice",), text("a.yaml", "seed: 1\nseed: 2\n")),
    ("nul", "a.yaml", ("NUL", "line 1"), text("a.yaml", 'name: "a\\0b"\n')),
    (
        "base",
        "a.yaml",
        ("base = rum.yaml", "no such file", "run.yaml"),
        text("a.yaml", "base: rum.yaml\n"),
    ),
    (
        "base cycle",
        "a.yaml",
        ("base = ", "each other's base", "a.yaml -> "),
        text("a.yaml", "base: a.yaml\n"),
    ),
    (
        "preset",
        "a.yaml",
        ("model.preset = tiny-mo", "no such file", "tiny-moe.yaml"),
        text("a.yaml", "base: run.yaml\nmodel: {preset: tiny-mo}\n"),
    ),
    (
        "misspelt",
        "a.yaml",
        ("train.totl_tokens: unknown key", "Did you mean train.total_tokens?"),
        text("a.yaml", CONFIG.replace("total_tokens", "totl_tokens")),
    ),
)

KEYS = [
    Case("override key", "trian.x=1", 2, ("trian: unknown key", "Did you mean train?")),
    Case("override form", "train", 2, ("override = train", "key=value")),
    Case("override {}", "data.sources={}", 2, ("data.sources = {}", "empty mapping", "null")),
    Case("type", "lr.peak=fast", 2, ("lr.peak = fast", "must be a number")),
    Case("bool", "model.rope_theta=true", 2, ("model.rope_theta = True", "must be a number")),
    Case("unit", "train.total_tokens=4m", 2, ("train.total_tokens = 4m", "suffix 'm'", "4M")),
    Case("fraction", "seed=1.5", 2, ("seed = 1.5", "whole number", "Nearest legal: 1 or 2")),
    Case("negative", "lr.peak=-1", 2, ("lr.peak = -1", "must be greater than 0")),
    Case("huge count", f"seed={2**63}", 2, ("seed = ", "below 2^63", str(2**63 - 1))),
    Case(
        "huge model",
        f"model.num_hidden_layers={10**26}",
        2,
        ("model.num_hidden_layers", "at most 10000. Nearest legal: 10000"),
    ),
    Case("name", "name=../up", 2, ("name = ../up", "must match")),
    Case("no output", "output_dir=", 2, ("output_dir", "must be text")),
    Case("empty output", 'output_dir=""', 2, ("output_dir", "must not be empty")),
]

SCHEDULES = [
    Case(
        "batch not increasing",
        "batch.schedule=0: 256, 1K: 512, 900: 768",
        2,
        ("batch.schedule = 900: 768", "must increase", "1_001"),
    ),
    Case(
        "batch beyond the run",
        "batch.schedule=0: 256, 5K: 512",
        2,
        ("batch.schedule = 5K: 512", "end of the run, 4_096 tokens", "4_095"),
    ),
    Case(
        "batch larger than the run",
        "batch.schedule=0: 256, 1K: 8K",
        2,
        ("batch.schedule = 1K: 8K", "larger than the run", "4_096"),
    ),
    Case("first batch", "batch.schedule=0: 250", 2, ("batch.schedule = 0: 250", "192 or 256")),
    Case(
        "third batch",
        "batch.schedule=0: 256, 1K: 512, 2K: 700",
        2,
        ("batch.schedule = 2K: 700", "multiple of", "= 64 tokens", "Nearest legal: 640 or 704"),
    ),
    Case(
        "third batch on three ranks",
        "--dry-run;--world-size;3;batch.schedule=0: 192, 1K: 384, 2K: 512",
        2,
        ("batch.schedule = 2K: 512", "data-parallel degree 3", "Nearest legal: 384 or 576"),
    ),
    Case(
        "sequence length of a later batch",
        "--dry-run;--world-size;2;parallel.tensor=2;parallel.sequence_parallel=true;"
        "batch.rounding=nearest;batch.schedule=0: 256, 1K: 528 @ 33",
        2,
        ("sequences of 33 tokens have none", "parallel.tensor = 2", "Nearest legal: False"),
    ),
    Case(
        "grown sequence too long",
        "batch.growth=sequence_length;batch.schedule=0: 256, 1K: 2048",
        2,
        ("batch.schedule = 1K: 2_048", "longest sequence, 128", "Nearest legal: 1_024"),
    ),
    Case(
        "warmup and decay",
        "lr.warmup_tokens=3500",
        2,
        ("lr.decay_tokens = 1_024", "warmup 3.5K + decay", "run of 4_096", "Nearest legal: 596"),
    ),
    Case("warmup", "lr.warmup_tokens=5K", 2, ("lr.warmup_tokens = 5K", "4_096")),
    Case(
        "data phase",
        "data.phases.1.start_tokens=5K",
        2,
        ("data.phases.1.start_tokens = 5K", "inside the run", "4_095"),
    ),
    Case(
        "law file",
        "batch.schedule=null;batch.law={file: la.json, interval_tokens: 1K, initial_tokens: 256}",
        2,
        ("batch.law.file = la.json", "no such file", "law.json"),
        text("law.json", "{}"),
    ),
    Case(
        "not a law",
        "batch.schedule=null;batch.law={file: law.json, interval_tokens: 1K, initial_tokens: 256}",
        3,
        ("law.json", "schema = None", "megascale.law/2"),
        text("law.json", "{}"),
    ),
]


def layout(name: str, ranks: int, words: str, *said: str) -> Case:
    return Case(name, f"--dry-run;--world-size;{ranks};{words}", 2, said)


LAYOUTS = [
    layout(
        "heads",
        3,
        "parallel.tensor=3",
        "parallel.tensor = 3",
        "model.num_attention_heads = 8",
        "Nearest legal: 1",
    ),
    layout(
        "KV heads",
        8,
        "parallel.tensor=8",
        "parallel.tensor = 8",
        "model.num_key_value_heads = 4",
        "Nearest legal: 4",
    ),
    layout(
        "experts",
        4,
        "parallel.expert=4",
        "parallel.expert = 4",
        "model.num_experts = 6",
        "Nearest legal: 2",
    ),
    layout(
        "experts over data",
        2,
        "parallel.expert=3",
        "parallel.expert = 3",
        "data-parallel ranks = 2",
        "Nearest legal: 2",
    ),
    layout(
        "vocabulary",
        4,
        "parallel.tensor=4;model.vocab_size=66",
        "parallel.tensor = 4",
        "model.vocab_size = 66",
        "Nearest legal: 2",
    ),
    layout(
        "sequence",
        2,
        "parallel.tensor=2;parallel.sequence_parallel=true;train.sequence_length=33",
        "sequences of 33 tokens have none",
        "parallel.tensor = 2",
        "Nearest legal: False",
    ),
    layout(
        "ranks",
        6,
        "parallel.tensor=4",
        "parallel.tensor = 4",
        "number of ranks = 6",
        "Nearest legal: 2",
    ),
    layout("data", 4, "parallel.data=3", "parallel.data = 3", "ranks = 4", "4 or -1"),
    layout(
        "replicas",
        3,
        "parallel.data_mode=hsdp;parallel.hsdp_replicate=2",
        "parallel.hsdp_replicate = 2",
        "data-parallel ranks = 3",
        "1 or 3",
    ),
    layout("no rank", 0, "", "--world-size = 0", "at least one rank", "Nearest legal: 1"),
    Case(
        "GQA",
        "model.num_key_value_heads=3",
        2,
        ("model.num_key_value_heads = 3", "num_attention_heads = 8", "2 or 4"),
    ),
]

DATA = [
    Case(
        "ids by sidecar",
        "model.vocab_size=32",
        3,
        ("data.sources.code", "token id 63 in code.bin", "vocabulary size 32"),
    ),
    Case("ids by sample", "", 3, ("web.bin, token 0", "id 64", "[0, 64)"), foreign_id),
    Case(
        "truncated index",
        "",
        3,
        ("data.sources.web: web.idx = 100 bytes", "truncated", "30 sequences"),
        cut("web.idx", 100),
    ),
    Case("index header", "", 3, ("web.idx = 20 bytes", "34 bytes"), cut("web.idx", 20)),
    Case("not an index", "", 3, ("web.idx", "not an .idx"), poke("web.idx", 0, b"XX")),
    Case(
        "dtype",
        "",
        3,
        ("web.idx = dtype code 7 (float32)", "integers", "4 (int32)"),
        poke("web.idx", 17, b"\x07"),
    ),
    Case(
        "dtype of other width",
        "",
        3,
        ("web.bin = 6000 bytes", "does not match its index", "int32"),
        poke("web.idx", 17, b"\x04"),
    ),
    Case("truncated tokens", "", 3, ("web.bin = 5000 bytes", "6000"), cut("web.bin", 5000)),
    Case("empty", "", 3, ("web.idx = 0 sequences", "at least one document"), empty_source),
    Case(
        "missing source",
        "data.sources.web.path=wbe",
        3,
        ("data.sources.web: wbe.bin = missing", "Nearest legal: web"),
    ),
    Case("missing tokens", "", 3, ("web.bin = missing",), remove("web.bin")),
    Case("missing index", "", 3, ("web.idx = missing",), remove("web.idx")),
    Case(
        "held-out source",
        "data.validation={held: {path: nowhere}}",
        3,
        ("data.validation.held: nowhere.bin = missing",),
    ),
    Case("sidecar", "", 3, ("web.meta.json", "JSON"), text("web.meta.json", "{")),
    Case(
        "sidecar's keys",
        "",
        3,
        ("web.meta.json = keys none", "tokenizer_sha256"),
        text("web.meta.json", '{"schema": "megascale.tokens/1"}'),
    ),
    Case(
        "weights",
        "data.phases.0.mixture={web: 0.5, code: 0.75}",
        2,
        ("data.phases.0.mixture", "sum to 1, not 1.25", "web: 0.4, code: 0.6"),
    ),
    Case(
        "unknown source",
        "data.phases.1.mixture={code: 0.5, wbe: 0.5}",
        2,
        ("data.phases.1.mixture.wbe = 0.5", "no such source", "Nearest legal: web"),
    ),
    Case(
        "tokenizer",
        "data.tokenizer=other-tokenizer.json",
        3,
        ("data.tokenizer", "code was made with another tokenizer"),
    ),
    Case("no tokenizer", "data.tokenizer=nope", 3, ("data.tokenizer = nope", "cannot be read")),
    Case("chunks", "data.chunk_tokens=5K", 3, ("data.chunk_tokens = 5000", "3000")),
]

PLACES = [
    Case(
        "output is a file",
        "output_dir=run.yaml",
        5,
        ("run directory = run.yaml/tiny", "run.yaml is a file"),
    ),
    Case("no W&B", "log.wandb={project: p}", 2, ("log.wandb = p", "pip install", "null")),
    Case(
        "weights to start from",
        "train.initial_weights=nowhere",
        4,
        ("nowhere", "has neither model.safetensors"),
    ),
    Case(
        "branch",
        "--branch-decay;runs/other/checkpoints/step-1",
        4,
        ("--branch-decay = runs/other/checkpoints/step-1", "no such checkpoint"),
    ),
    Case("option", "--expalin", 2, ("megascale train", "--expalin", "--explain")),
    Case("verb", "trian;run.yaml", 2, ("verb = trian", "Nearest legal: train"), whole=True),
    Case("no config", "train", 2, ("Missing argument",), whole=True),
    Case("json", "--json", 2, ("--json", "--explain only")),
    Case("both", "--explain;--dry-run", 2, ("--dry-run", "exclude each other")),
    Case("ranks of a start", "--world-size;2", 2, ("--world-size = 2", "torchrun")),
]

OTHER_VERBS = [
    Case(
        "config check",
        "config;check;run.yaml;lr.peek=1",
        2,
        ("lr.peek: unknown key", "Did you mean lr.peak?"),
        whole=True,
    ),
    Case(
        "model show",
        "model;show;a.yaml",
        2,
        ("a.yaml", "cannot be read"),
        text("a.yaml", b"\xff"),
        whole=True,
    ),
    Case("runs ls", "runs;ls;nowhere", 3, ("nowhere",), whole=True),
    Case("runs show", "runs;show;nowhere", 3, ("nowhere",), whole=True),
    Case(
        "data inspect",
        "data;inspect;wbe",
        3,
        ("wbe.bin = missing", "Nearest legal: web"),
        whole=True,
    ),
    Case(
        "data verify",
        "data;inspect;web;--verify",
        3,
        ("web.bin", "changed since it was prepared"),
        poke("web.bin", 0, b"\x01\x00"),
        whole=True,
    ),
    Case(
        "data prepare without text",
        "data;prepare;nowhere;--tokenizer;made-with.json;-o;out",
        3,
        ("nowhere",),
        whole=True,
    ),
    Case(
        "data prepare without tokenizer",
        "data;prepare;run.yaml;--tokenizer;made-with.json;-o;out",
        3,
        ("--tokenizer = made-with.json", "not a Hugging Face tokenizer.json"),
        whole=True,
    ),
    Case(
        "data prepare over data",
        "data;prepare;run.yaml;--tokenizer;made-with.json;-o;web",
        3,
        ("--output = web", "already there", "--overwrite"),
        whole=True,
    ),
]

CASES = [*FILES, *KEYS, *SCHEDULES, *LAYOUTS, *DATA, *PLACES, *OTHER_VERBS]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return make_scene(tmp_path_factory.mktemp("pristine") / "scene")


@pytest.fixture
def scene(pristine: Path, tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "scene"
    shutil.copytree(pristine, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused(case: Case, scene: Path, capfd, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    case.damage(scene)
    before = tree(scene)
    code = call(case.arguments)
    error = capfd.readouterr().err
    assert tree(scene) == before
    for part in case.said:
        assert part in error
    assert code == case.code
    assert [line[:9] for line in error.splitlines() if line[:1] != " "] == ["megascale"]


def test_the_scene_itself_is_in_order(scene: Path, capfd) -> None:
    before = tree(scene)
    assert call(["train", "run.yaml", "--dry-run"]) == 0
    assert "in order for 1 rank\n" in capfd.readouterr().out
    assert call(["train", "run.yaml", "--dry-run", "--world-size", "4", "parallel.tensor=4"]) == 0
    assert tree(scene) == before


@pytest.fixture(scope="module")
def finished(pristine: Path, tmp_path_factory) -> Path:
    """A scene whose run has ended."""
    folder = tmp_path_factory.mktemp("finished") / "scene"
    shutil.copytree(pristine, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ((code, error),) = call_on_ranks([["train", "run.yaml"]], folder)
    assert code == 0, error
    return folder


@pytest.fixture
def run_there(finished: Path, tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "scene"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    return folder


def change_corpus(folder: Path) -> None:
    tokens = np.memmap(folder / "code.bin", dtype="<u2", mode="r+")
    tokens[:] = tokens[::-1].copy()
    tokens.flush()


BRANCH = "runs/tiny/checkpoints/step-00000006-tokens-2304"
RESUMES = [
    Case("seed", "seed=8", 5, ("runs/tiny", "seed: 7 -> 8", "--allow-changed")),
    Case("model", "model.hidden_size=32", 5, ("model.hidden_size: 16 -> 32",)),
    Case("budget", "train.total_tokens=8K", 5, ("train.total_tokens: 4096 -> 8000",)),
    Case(
        "model of the checkpoint",
        "model.hidden_size=32;--allow-changed;model",
        4,
        ("another model", "model.hidden_size: 16 in the checkpoint, 32 in the config"),
    ),
    Case("past", "", 4, ("gives other tokens", "--allow-changed past"), change_corpus),
    Case(
        "saved config",
        "",
        5,
        ("config.json", "damaged"),
        text("runs/tiny/config.json", "{"),
    ),
    Case(
        "branch of another model",
        "--branch-decay;{stable};model.hidden_size=32",
        4,
        ("another model", "model.hidden_size"),
    ),
    Case(
        "branch misnamed",
        "--branch-decay;runs/tiny/checkpoints/step-1",
        4,
        ("--branch-decay = ", "no such checkpoint", "Nearest legal: runs/tiny/checkpoints/step-"),
    ),
    Case("branch in the decay", "--branch-decay;{last}", 2, ("decay phase of its run",)),
]


@pytest.mark.parametrize("case", RESUMES, ids=lambda case: case.name)
def test_resume_refused(case: Case, run_there: Path, capfd) -> None:
    checkpoints = sorted((run_there / "runs/tiny/checkpoints").glob("step-*"))
    names = {"stable": checkpoints[0], "last": checkpoints[-1]}
    case.damage(run_there)
    before = tree(run_there)
    code = call([word.format(**names) for word in case.arguments])
    error = capfd.readouterr().err
    assert tree(run_there) == before
    for part in case.said:
        assert part in error
    assert code == case.code
    assert "Traceback" not in error


def test_a_run_directory_in_use(run_there: Path, capfd) -> None:
    from megascale.train.rundir import RunDirectory

    with RunDirectory(run_there / "runs/tiny"):
        before = tree(run_there)
        codes = [
            call(["train", "run.yaml", *options])
            for options in (["--dry-run"], ["--dry-run", "--world-size", "2"])
        ]
        (start,) = call_on_ranks([["train", "run.yaml"]], run_there)
        assert tree(run_there) == before
    errors = capfd.readouterr().err
    assert codes == [5, 5]
    assert errors.count(f"in use by pid {os.getpid()}") == 2
    assert start[0] == 5
    assert f"in use by pid {os.getpid()}" in start[1]
    assert start[1].count("\n") == 1


@pytest.fixture
def no_wait(monkeypatch) -> None:
    monkeypatch.setattr(cli, "SILENT_RANKS_WAIT_SECONDS", 0.0)


def test_what_all_ranks_find_is_said_once(run_there: Path, no_wait) -> None:
    before = tree(run_there)
    for words, code in (["lr.peek=1"], 2), (["--foo"], 2), (["model.vocab_size=32"], 3):
        results = call_on_ranks([["train", "run.yaml", *words]] * 2, run_there)
        assert [result[0] for result in results] == [code, code]
        assert results[0][1].count("\n") == 1
        assert results[1][1] == ""
    assert tree(run_there) == before


def test_what_the_first_rank_finds_ends_all(run_there: Path, no_wait) -> None:
    from megascale.train.rundir import RunDirectory

    with RunDirectory(run_there / "runs/tiny"):
        before = tree(run_there)
        results = call_on_ranks([["train", "run.yaml"]] * 2, run_there)
        assert tree(run_there) == before
    assert [code for code, _ in results] == [5, 5]
    assert "in use by" in results[0][1]
    assert results[1][1] == ""


def test_ranks_with_different_configs(scene: Path, no_wait) -> None:
    before = tree(scene)
    results = call_on_ranks([["train", "run.yaml"], ["train", "run.yaml", "lr.peak=1"]], scene)
    assert tree(scene) == before
    assert [code for code, _ in results] == [2, 2]
    assert "on rank 1: every rank must be started with the same config" in results[0][1]
    assert results[1][1] == ""


def test_a_damaged_branch_leaves_no_run_directory(run_there: Path) -> None:
    stable = sorted((run_there / "runs/tiny/checkpoints").glob("step-*"))[0]
    next(stable.glob("*.safetensors")).write_bytes(b"damaged")
    before = tree(run_there)
    words = ["train", "run.yaml", "--branch-decay", str(stable), "name=branch"]
    ((code, error),) = call_on_ranks([words], run_there)
    assert code == 4
    assert "damaged" in error
    assert tree(run_there) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(scene: Path, capfd) -> None:
    (scene / "runs").mkdir(mode=0o555)
    assert call(["train", "run.yaml"]) == 5
    assert "cannot be written by this user" in capfd.readouterr().err


@pytest.mark.parametrize("words", [["trian"], ["train", "run.yaml", "seed=x"]])
def test_as_a_process(words: list[str], scene: Path) -> None:
    before = tree(scene)
    done = subprocess.run(
        [sys.executable, "-m", "megascale", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert words[-1].partition("=")[2] in done.stderr
    assert tree(scene) == before


def test_the_launcher_says_it_before_torchrun(scene: Path) -> None:
    before = tree(scene)
    done = subprocess.run(
        ["bash", REPOSITORY / "launch/torchrun.sh", "run.yaml", "parallel.tensor=3"],
        env=os.environ | {"NPROC_PER_NODE": "3", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "parallel.tensor = 3" in done.stderr
    assert done.stderr.count("\n") == 1
    assert tree(scene) == before
