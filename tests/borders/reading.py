"""The borders: for each, sound inputs, how one is changed, and the program's own way to read it.

`attempt(border, seed)` gives "read" or "refused"; whatever else is raised is a fault.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megascale.errors import UserError
from tests.borders.mutation import WORDS, mutate_bytes, mutate_json, mutate_number, mutate_text

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"


@dataclass(frozen=True)
class Border:
    """One place at which foreign input comes in.

    Attributes:
        make: writes sound inputs into a folder, once a process.
        attempt: changes an input by the random numbers given, in a scratch folder, and reads it.
    """

    make: Callable[[Path], None]
    attempt: Callable[[random.Random, Path, Path], None]


def attempt(border: Border, sound: Path, scratch: Path, seed: int) -> str:
    """Read one changed input; "read" or "refused".

    Args:
        border: one of `BORDERS`.
        sound: folder in which `border.make` wrote.
        scratch: an empty folder, emptied again afterwards.
        seed: of the change.
    """
    try:
        border.attempt(random.Random(seed), sound, scratch)
        return "read"
    except UserError as error:
        str(error).encode()  # a message that cannot be printed is a fault too
        return "refused"
    finally:
        for path in scratch.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _nothing(folder: Path) -> None:
    """The sound inputs are the shipped files."""


@cache
def _texts(*patterns: str) -> list[str]:
    files = [file for pattern in patterns for file in sorted(CONFIGS.glob(pattern))]
    return [file.read_text().replace("base: ../", f"base: {CONFIGS}/") for file in files]


def _yaml(rng: random.Random, texts: list[str]) -> bytes:
    text = rng.choice(texts)
    data = mutate_text(text, rng).encode("utf-8", "surrogatepass")
    return mutate_bytes(data, rng) if rng.random() < 0.2 else data


def _config(rng: random.Random, sound: Path, scratch: Path) -> None:
    from megascale.config import load_config

    file = scratch / "config.yaml"
    file.write_bytes(_yaml(rng, _texts("quickstart.yaml", "studies/base/*.yaml")))
    keys = ["data.sources", "train.total_tokens", "model.vocab_size", "lr.peak", "batch.schedule",
            "name", "model.preset", "batch.law.file", "data.phases.0.mixture"]  # fmt: skip
    overrides = [f"{rng.choice(keys)}={rng.choice(WORDS)}" for _ in range(rng.choice([0, 0, 1, 2]))]
    load_config(file, overrides)


def _preset(rng: random.Random, sound: Path, scratch: Path) -> None:
    from megascale.model.config import read_model_config

    file = scratch / "model.yaml"
    file.write_bytes(_yaml(rng, _texts("models/*.yaml")))
    read_model_config(file)


def _study(rng: random.Random, sound: Path, scratch: Path) -> None:
    from megascale.sweep.study import load_study

    file = scratch / "study.yaml"
    file.write_bytes(_yaml(rng, _texts("studies/*.yaml")))
    load_study(file)


def _law(rng: random.Random, sound: Path, scratch: Path) -> None:
    from megascale.formats.law_band import law_band
    from megascale.formats.law_file import read_law_file

    file = scratch / "law.json"
    sources = sorted(CONFIGS.glob("laws/*.json"))
    file.write_bytes(mutate_json(json.loads(rng.choice(sources).read_bytes()), rng))
    law = read_law_file(file)
    law.to_json()
    law.outside_range(1e9, 1e10)
    for n, d in ((1e8, 1e9), (1e11, 1e13)):
        law.evaluate(n, d)
        law_band(law, n, d)


def _law_in_use(rng: random.Random, sound: Path, scratch: Path) -> None:
    """A law file of the right form whose numbers are extreme, through the verbs that use it."""
    from megascale.cli import main

    content = json.loads(rng.choice(sorted(CONFIGS.glob("laws/*.json"))).read_bytes())
    for _ in range(rng.randint(1, 3)):
        mutate_number(content, rng)
    file = scratch / "law.json"
    file.write_text(json.dumps(content))
    size = rng.choice(["--params=1B", "--params=10M"])
    words = [
        "schedule",
        f"--law-file={file}",
        size,
        "--tokens=20B",
        rng.choice(["--json", "--dp=8"]),
    ]
    if rng.random() < 0.5:
        words = ["recommend", f"--law-file={file}", size, "--tokens=20B"]
    shown = io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            main(words)
        except SystemExit as left:
            code = left.code
    if code != 0:
        assert code in range(2, 8), shown.getvalue()
        raise UserError(shown.getvalue())


def _make_run(folder: Path) -> None:
    from tests.formats.test_run_log import record
    from tests.runs.readers.test_own import HEADER

    lines = HEADER + "".join(json.dumps(record(n)) + "\n" for n in (1, 2, 3, 4))
    (folder / "metrics.jsonl").write_text(lines)
    events = [
        {"kind": "start", "step": 0, "tokens": 0, "time": "2026-01-01T00:00:00.000+00:00"},
        {"kind": "evaluation", "step": 2, "tokens": 512, "loss": 3.5},
        {"kind": "end", "step": 4, "tokens": 1024, "exit_code": 0},
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def _run_log(rng: random.Random, sound: Path, scratch: Path) -> None:
    from megascale.formats.run_log import read_run
    from megascale.runs.table import load_runs

    for name in ("metrics.jsonl", "events.jsonl"):
        lines = (sound / name).read_bytes().splitlines(keepends=True)
        at = rng.randrange(len(lines))
        lines[at] = mutate_json(json.loads(lines[at]), rng) + rng.choice([b"\n", b"\n", b""])
        (scratch / name).write_bytes(b"".join(lines))
    with contextlib.suppress(UserError):
        read_run(scratch).column("loss")
    load_runs([scratch], cache=False)


def _foreign_log(rng: random.Random, sound: Path, scratch: Path) -> None:
    from megascale.runs.table import load_runs
    from tests.runs.test_readers_fuzz import REAL

    data = REAL[rng.choice(sorted(REAL))]
    file = scratch / rng.choice(["run.log", "run.jsonl", "run.json", "run.csv", "run.txt"])
    file.write_bytes(mutate_bytes(data, rng))
    load_runs([file], cache=False)


_POINTS = b"S,E,B,target_loss\n1000,2000000,2000,3.5\n700,2100000,3000,3.5\n500,2500000,5000,3.5\n"
_GRID = b"n_params,tokens,lr,batch_tokens,loss\n1e8,2e9,0.001,65536,3.1\n1e8,2e9,0.002,65536,3.0\n"


def _make_tables(folder: Path) -> None:
    import polars as pl

    for name, text in (("points", _POINTS), ("grid", _GRID)):
        (folder / f"{name}.csv").write_bytes(text)
        (folder / f"{name}.tsv").write_bytes(text.replace(b",", b"\t"))
        frame = pl.read_csv(io.BytesIO(text))
        frame.write_parquet(folder / f"{name}.parquet")
        frame.write_ndjson(folder / f"{name}.jsonl")


def _table(rng: random.Random, sound: Path, scratch: Path) -> None:
    from megascale.runs.inputs import GRID, POINTS, recognise

    source = rng.choice(sorted(sound.iterdir()))
    file = scratch / source.name
    file.write_bytes(mutate_bytes(source.read_bytes(), rng))
    recognise(file)
    recognise(file, wanted=rng.choice([GRID, POINTS]))


def _make_indexed(folder: Path) -> None:
    from megascale.data.writer import IndexedWriter

    with IndexedWriter(folder / "tokens", vocab_size=512) as writer:
        writer.add(np.arange(400) % 300, np.array([100, 1, 299]))
        writer.finish(tokenizer_sha256="t" * 64, eos_id=0, details={"inputs": ["a.txt"]})


def _indexed(rng: random.Random, sound: Path, scratch: Path) -> None:
    from megascale.data.indexed import TokenSource, check_vocab

    for file in sound.iterdir():
        shutil.copy(file, scratch / file.name)
    index, sidecar = scratch / "tokens.idx", scratch / "tokens.meta.json"
    if rng.random() < 0.5:
        index.write_bytes(mutate_bytes(index.read_bytes(), rng))
    else:
        sidecar.write_bytes(mutate_json(json.loads(sidecar.read_bytes()), rng))
    source = TokenSource("source", [scratch / "tokens"])
    check_vocab(source, 512)
    source.files[0].document_lengths(0, 10)
    assert len(source.files[0].digest) == 64
    source.read(0, source.tokens)


def _chunks() -> list[Any]:
    from tests.train.checkpoint_samples import sample_chunks

    return sample_chunks()


def _make_checkpoints(folder: Path) -> None:
    from megascale.train.checkpoint import Checkpointer, rng_state

    state = {
        "samples": 8,
        "token_hash": "0" * 16,
        "updates": 2,
        "model": {"vocab_size": 64},
        "stream": "s",
        "threads": 1,
        "guard": {"window": [[8, 4, 3.5, 1.0]], "skips": [], "last_applied": 8},
        "interval": {
            **dict.fromkeys(("steps", "skipped", "tokens", "loss_tokens", "grad_norms"), 0),
            **dict.fromkeys(("loss_sum", "grad_norm_sum", "grad_norm_max", "seconds"), 0.0),
            **{"flops": 0.0, "expert_counts": None, "router_entropy_sum": None},
            **{"routed_tokens": 0, "extra_sums": {}},
        },
        "balance": None,
    }
    checkpointer = Checkpointer(folder)
    for step in (1, 2):
        checkpointer.save(
            step=step, tokens=4 * step, chunks=_chunks(), state=state, rank_state=rng_state()
        )


def _manifest(rng: random.Random, sound: Path, scratch: Path) -> None:
    from megascale.train.checkpoint import latest_checkpoint, list_checkpoints

    folder = scratch / "checkpoints"
    shutil.copytree(sound, folder)
    oldest, newest = list_checkpoints(folder)
    manifest = newest.path / "manifest.json"
    changed = mutate_json(json.loads(manifest.read_bytes()), rng)
    same = changed == manifest.read_bytes()
    manifest.write_bytes(changed)
    found = latest_checkpoint(folder)
    assert found is not None
    assert same or found.path in (oldest.path, newest.path)


def _checkpoint(rng: random.Random, sound: Path, scratch: Path) -> None:
    """Index, state and tensor file, changed after their hashes were checked."""
    from megascale.train.checkpoint import (
        list_checkpoints,
        load_checkpoint,
        read_rank_state,
        set_rng_state,
    )
    from megascale.train.saved_state import read_training_state
    from tests.train.checkpoint_samples import empty_like, equal

    folder = scratch / "checkpoint"
    shutil.copytree(list_checkpoints(sound)[-1].path, folder)
    kind = rng.choice(["index.json", "state.json", "rank-00000.json", "tensors"])
    if kind == "tensors":
        file = next(folder.glob("*.safetensors"))
        data = file.read_bytes()
        file.write_bytes(mutate_bytes(data[:400], rng) + data[400:])
    else:
        file = folder / kind
        file.write_bytes(mutate_json(json.loads(file.read_bytes()), rng))
    wanted = empty_like(_chunks())
    read_training_state(folder)
    state = load_checkpoint(folder, wanted)
    if kind == "index.json":
        assert not any((chunk.local == 77).all() for chunk in wanted)
    if kind in ("state.json", "rank-00000.json"):
        assert equal(wanted, _chunks())
        kept = torch.get_rng_state()
        try:
            set_rng_state(read_rank_state(folder, 0, state) or {})
        finally:
            torch.set_rng_state(kept)


def _make_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["some words to learn from", "and some more words"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def _tokenizer(rng: random.Random, sound: Path, scratch: Path) -> None:
    from megascale.data.tokenize import TokenizerFile

    file = scratch / "tokenizer.json"
    file.write_bytes(mutate_json(json.loads((sound / "tokenizer.json").read_bytes()), rng))
    loaded = TokenizerFile(file)
    loaded.eos_id()
    loaded.encode(["some words to read", ""])


def _make_hub(folder: Path) -> None:
    from megascale.model.config import ModelConfig
    from megascale.model.count import parameter_shapes
    from megascale.model.hf import write_hub_folder

    config = ModelConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
    )
    parameters = [(name, torch.ones(shape)) for name, shape in parameter_shapes(config)]
    write_hub_folder(config, parameters, folder / "single")
    write_hub_folder(config, parameters, folder / "sharded", max_shard_bytes=2000)


def _hub(rng: random.Random, sound: Path, scratch: Path) -> None:
    from megascale.model.count import parameter_shapes
    from megascale.model.hf import HubWeights

    kind = rng.choice(["single", "sharded"])
    folder = scratch / "hub"
    shutil.copytree(sound / kind, folder)
    names = ["config.json", "header"] + ["model.safetensors.index.json"] * (kind == "sharded")
    name = rng.choice(names)
    if name == "header":
        file = rng.choice(sorted(folder.glob("*.safetensors")))
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = mutate_json(json.loads(data[8 : 8 + length]), rng)
        told = len(header) if rng.random() < 0.8 else rng.choice([0, 2**63 - 1, 2**64 - 1, 10**9])
        file.write_bytes(told.to_bytes(8, "little") + header + data[8 + length :])
    else:
        file = folder / name
        file.write_bytes(mutate_json(json.loads(file.read_bytes()), rng))
    with HubWeights(folder) as weights:
        for parameter, shape in parameter_shapes(weights.config):
            weights.read_into(parameter, (0,) * len(shape), torch.empty(shape))


BORDERS: dict[str, Border] = {
    "config": Border(_nothing, _config),
    "model preset": Border(_nothing, _preset),
    "study": Border(_nothing, _study),
    "law file": Border(_nothing, _law),
    "law in use": Border(_nothing, _law_in_use),
    "run log": Border(_make_run, _run_log),
    "foreign log": Border(_nothing, _foreign_log),
    "table": Border(_make_tables, _table),
    "indexed tokens": Border(_make_indexed, _indexed),
    "manifest": Border(_make_checkpoints, _manifest),
    "checkpoint": Border(_make_checkpoints, _checkpoint),
    "tokenizer": Border(_make_tokenizer, _tokenizer),
    "hub folder": Border(_make_hub, _hub),
}
