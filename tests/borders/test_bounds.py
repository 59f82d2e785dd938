"""Bounds and integrity at single borders, each provoked with a small input."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from megascale.data.tokenize import TokenizerFile
from megascale.errors import CheckpointError, ConfigError, DataError, FitError, UserError
from megascale.fitting import fit
from megascale.formats.law_file import read_law_file
from megascale.model.hf import HubWeights
from megascale.runs.readers import megatron, opening
from megascale.sweep.study import load_study
from megascale.train.checkpoint import rng_state, set_rng_state
from megascale.train.checkpoint.storage import tiles
from tests.borders.reading import _make_hub
from tests.runs.readers.helpers import read_as
from tests.runs.readers.test_megatron import BLOCK, line


@st.composite
def boxes_of(draw):
    """A tensor's shape with boxes inside it, cut from it or drawn anywhere."""
    size = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    boxes = [((0,) * len(size), size)]
    for _ in range(draw(st.integers(0, 4))):
        offsets, extents = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(size) - 1))
        cut = draw(st.integers(0, extents[axis]))
        left, right = list(extents), list(extents)
        left[axis], right[axis] = cut, extents[axis] - cut
        moved = list(offsets)
        moved[axis] += cut
        boxes += [(offsets, tuple(left)), (tuple(moved), tuple(right))]
    if draw(st.booleans()) and boxes:
        at = draw(st.integers(0, len(boxes) - 1))
        offsets, extents = boxes[at]
        shifted = tuple(draw(st.integers(0, s - e)) for s, e in zip(size, extents, strict=True))
        boxes[at] = (shifted, extents)
    return size, boxes


@given(boxes_of())
def test_boxes_tile_just_when_every_element_is_covered_once(case):
    size, boxes = case
    covered = np.zeros(size, int)
    for offsets, extents in boxes:
        covered[tuple(slice(o, o + e) for o, e in zip(offsets, extents, strict=True))] += 1
    assert tiles(size, boxes) == bool((covered == 1).all())


def test_many_gzip_members_take_linear_time(tmp_path):
    member = gzip.compress(b"step,loss\n1,5\n", mtime=0)
    data, whole = opening.decompressed(tmp_path, member * 8_000)
    assert whole
    assert data == b"step,loss\n1,5\n" * 8_000
    # No member is handed more than one block of what follows it.
    passed = _bytes_passed(member * 500, tmp_path)
    assert passed <= 500 * len(member) + 500 * opening._PACKED_BYTES


def _bytes_passed(raw: bytes, path) -> int:
    total = 0
    real = zlib.decompressobj

    class Counting:
        def __init__(self, wbits):
            self.inner = real(wbits=wbits)

        def decompress(self, data):
            nonlocal total
            total += len(data)
            return self.inner.decompress(data)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zlib, "decompressobj", Counting)
        opening.decompressed(path, raw)
    return total


def test_a_packed_log_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MOST_UNPACKED_BYTES", 10_000)
    with pytest.raises(DataError, match="unpacks to more than"):
        opening.decompressed(tmp_path / "a.gz", gzip.compress(bytes(100_000)))


@pytest.mark.parametrize("negative", ["number of skipped iterations: -3", "consumed samples: -80"])
def test_megatron_lines_with_negative_counts(negative, monkeypatch):
    key = negative.split(":")[0]
    good = line(10)
    bad = good.replace("\n", f" {negative} |\n") if key not in good else good
    if key in good:
        cells = [f" {negative} " if key in cell else cell for cell in good.split("|")]
        bad = "|".join(cells)
    for small in (megatron.SMALL_BYTES, 0):
        monkeypatch.setattr(megatron, "SMALL_BYTES", small)
        found = read_as(megatron, BLOCK + bad + line(20))
        assert found.table["step"].to_list() == [20]
        assert found.malformed_count == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"y": np.ma.masked_array([3.0, 2.0, 1.5, 1.2], mask=[0, 1, 0, 0])}, "1 masked values"),
        ({"weights": np.ma.masked_array([1.0] * 4, mask=[0, 0, 0, 1])}, "1 masked values"),
        ({"offsets": [0.0, 2.5, 4.0]}, "offsets .* whole numbers"),
        ({"offsets": "ab"}, "offsets .* whole numbers"),
        ({"tolerance": "a"}, "tolerance = a: must be a number"),
        ({"confidence": "a"}, "confidence = a"),
        ({"loss": "huber", "delta": "a"}, "delta = a"),
        ({"max_iterations": 2**40}, "max_iterations"),
        ({"bootstrap": "parametric", "replicates": 10**9}, "replicates"),
        ({"weights": "abcd"}, "weights"),
    ],
)
def test_arguments_of_a_fit(arguments, said):
    given_ = {"x": np.array([1.0, 2.0, 4.0, 8.0]), "y": np.array([3.0, 2.0, 1.5, 1.2])} | arguments
    with pytest.raises(FitError, match=said):
        fit("power_law", given_.pop("x"), given_.pop("y"), threads=1, **given_)


def test_a_law_that_is_no_name():
    with pytest.raises(FitError, match="law = 3: must be the name of a law"):
        fit(3, np.ones(3), np.ones(3))


def test_a_masked_array_without_masked_values_is_an_array():
    x = np.geomspace(1.0, 64.0, 7)
    y = np.ma.masked_array(2 * x**-0.5)
    assert fit("power_law", x, y, threads=1).status[0] == 0


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("seeds: 1000000000", "seeds"),
        ("{key: lr.peak, log: {start: 1, stop: 2, count: 1000000000}}", "count"),
        (f"{{key: lr.peak, values: [{', '.join(map(str, range(1, 1200)))}]}}", "at most 1000"),
    ],
)
def test_axes_of_a_study(axis, said, tmp_path):
    body = axis if axis.startswith("{") else f"{{{axis}}}"
    (tmp_path / "s.yaml").write_text(
        "name: s\nquestion: q\nbase: quickstart.yaml\n"
        f"axes: {{a: {body}}}\nscales: {{smoke: {{}}}}\n"
    )
    with pytest.raises(ConfigError, match=said):
        load_study(tmp_path / "s.yaml")


def test_a_covariance_that_is_of_nothing(tmp_path, repository):
    content = json.loads((repository / "configs/laws/step-law.json").read_bytes())
    # Every pair is a covariance; the three together have a negative eigenvalue.
    matrix = np.full((3, 3), -0.9) + 1.9 * np.eye(3)
    assert np.linalg.eigvalsh(matrix).min() < 0
    content["covariance"] = {"parameters": ["log_coef", "a", "b"], "matrix": matrix.tolist()}
    file = tmp_path / "law.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="negative eigenvalue"):
        read_law_file(file)
    content["covariance"]["matrix"] = (np.full((3, 3), 0.9) + 0.1 * np.eye(3)).tolist()
    file.write_text(json.dumps(content))
    assert read_law_file(file).covariance is not None


def test_hub_folders_that_say_two_things(tmp_path):
    _make_hub(tmp_path)
    with HubWeights(tmp_path / "sharded"):
        pass
    single = tmp_path / "single" / "model.safetensors"
    (tmp_path / "sharded" / "model.safetensors").write_bytes(single.read_bytes())
    with pytest.raises(CheckpointError, match=r"both model\.safetensors and"):
        HubWeights(tmp_path / "sharded")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.uint8])
def test_quantised_weights_without_scales(tmp_path, dtype):
    _make_hub(tmp_path)
    file = tmp_path / "single" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(dtype)}, file)
    with pytest.raises(CheckpointError, match=rf"{name}.*quantised weights"):
        HubWeights(tmp_path / "single")


def test_an_index_whose_weight_map_is_a_list(tmp_path):
    _make_hub(tmp_path)
    index = tmp_path / "sharded" / "model.safetensors.index.json"
    for content in (
        {"weight_map": []},
        {"weight_map": {"a": 3}},
        [],
        {"weight_map": {"a": "../b"}},
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(UserError):
            HubWeights(tmp_path / "sharded")


def test_random_states_without_words_are_refused():
    """Found by changing 20,000 checkpoints: numpy reads the first word before it looks."""
    kept = rng_state()
    empty = {**kept, "numpy": ["MT19937", "", *kept["numpy"][2:]]}
    with pytest.raises(CheckpointError, match="malformed RNG state"):
        set_rng_state(empty)
    set_rng_state(kept)


def test_token_ids_beyond_32_bits_are_refused(tmp_path):
    """Found by changing 20,000 tokenizers."""
    file = tmp_path / "tokenizer.json"
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    made.save(str(file))
    TokenizerFile(file)
    content = json.loads(file.read_bytes())
    content["model"]["vocab"]["b"] = 2**31
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="ids must lie between 0 and 2147483647"):
        TokenizerFile(file)
