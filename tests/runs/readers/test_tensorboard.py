"""TensorBoard event files, against TensorBoard's own writer and a bitwise checksum."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.runs.readers import tensorboard
from megascale.runs.readers.crc import masked_crc32c
from tests.runs.readers.helpers import kinds, read_as, recognised


def bitwise_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_checksums_of_many_pieces(pieces):
    data = np.frombuffer(b"".join(pieces), dtype=np.uint8)
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    expected = [bitwise_crc(piece) for piece in pieces]
    assert masked_crc32c(data, starts, lengths).tolist() == expected


def varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def event(step: int, tag: str, value: float, tensor: bool = False) -> bytes:
    """One record with one scalar, as TensorFlow 1 or 2 writes it."""
    name = b"\x0a" + varint(len(tag)) + tag.encode()
    if tensor:
        body = b"\x08\x01\x22\x04" + struct.pack("<f", value)
        scalar = name + b"\x42" + varint(len(body)) + body
    else:
        scalar = name + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + varint(len(scalar)) + scalar
    data = b"\x09" + struct.pack("<d", 1.5) + b"\x10" + varint(step)
    data += b"\x2a" + varint(len(summary)) + summary
    head = struct.pack("<Q", len(data))
    return b"".join(
        (head, struct.pack("<I", bitwise_crc(head)), data, struct.pack("<I", bitwise_crc(data)))
    )


def megatron_file(steps=(10, 20, 30), per_step=8, start=4.0) -> bytes:
    out = b""
    for number, step in enumerate(steps):
        loss = start - number / 4
        for tag, value in (("lm loss", loss), ("learning-rate", 2**-10), ("batch-size", per_step)):
            out += event(step, tag, value) + event(step * per_step, f"{tag} vs samples", value)
        out += event(step, "lm loss validation", loss + 0.5)
    return out


def test_megatron_tags_and_their_twins():
    found = read_as(tensorboard, megatron_file())
    train = found.table.filter(found.table["loss_kind"] == "instantaneous")
    columns = ("step", "samples", "batch_samples", "loss", "lr")
    assert train.select(columns).rows() == [
        (10, 80, 8, 4.0, 2**-10),
        (20, 160, 8, 3.75, 2**-10),
        (30, 240, 8, 3.5, 2**-10),
    ]
    validation = found.table.filter(found.table["loss_kind"] == "validation")
    assert validation.select("step", "samples", "loss").rows()[0] == (10, 80, 4.5)
    assert recognised(megatron_file()) == "tensorboard"


def test_scalars_as_tensors_and_huggingface_tags():
    data = b"".join(
        event(step, tag, value, tensor=True)
        for step in (1, 2)
        for tag, value in (("train/loss", 3.0), ("train/grad_norm", 0.5), ("eval/loss", 3.5))
    )
    found = read_as(tensorboard, data)
    rows = found.table.select("step", "loss", "loss_kind", "grad_norm").rows()
    assert (1, 3.0, "interval_mean", 0.5) in rows
    assert (2, 3.5, "validation", 0.5) in rows


def test_a_file_of_tensorboards_own_writer(tmp_path):
    writer_of = pytest.importorskip("tensorboard.summary").Writer
    writer = writer_of(str(tmp_path))
    for step in range(1, 5):
        writer.add_scalar("loss", step / 8, step)
        writer.add_scalar("loss vs tokens", step / 8, step * 1000)
    writer.close()
    (path,) = tmp_path.iterdir()
    found = read_as(tensorboard, path.read_bytes())
    assert found.table.select("step", "tokens", "loss", "loss_kind").rows() == [
        (step, step * 1000, step / 8, "interval_mean") for step in range(1, 5)
    ]


def test_token_counts_in_float32_are_restored_or_left_empty():
    def titan(count) -> bytes:
        return b"".join(
            event(step, "loss_metrics/global_avg_loss", 3.0)
            + event(step, "n_tokens_seen", count(step))
            for step in range(1, 40)
        )

    even = read_as(tensorboard, titan(lambda step: step * 1_000_001)).table
    assert even["tokens"].to_list() == [step * 1_000_001 for step in range(1, 40)]
    found = read_as(tensorboard, titan(lambda step: step**2 * 1_000_001))
    assert found.table["tokens"].drop_nulls().to_list() == [
        step**2 * 1_000_001 for step in range(1, 5)
    ]
    assert "missing_field" in kinds(found)


def test_a_cut_file_gives_its_whole_records():
    data = megatron_file()
    whole = read_as(tensorboard, data)
    for size in range(0, len(data), 7):
        found = read_as(tensorboard, data[:size])
        assert found.table.height <= whole.table.height
        assert not found.malformed_count
    assert "torn" in kinds(found)


def test_a_changed_byte_is_found():
    data = bytearray(megatron_file())
    data[30] ^= 1
    found = read_as(tensorboard, bytes(data))
    assert found.malformed_count == 1
    assert found.malformed[0].line == 1
    data[0] ^= 1
    assert "damaged" in kinds(read_as(tensorboard, bytes(data)))


def test_a_restart_replaces_what_was_written_beyond():
    found = read_as(tensorboard, megatron_file() + megatron_file((20, 40), start=9.0))
    train = found.table.filter(found.table["loss_kind"] == "instantaneous")
    assert train.select("step", "loss").rows() == [(10, 4.0), (20, 9.0), (40, 8.75)]
