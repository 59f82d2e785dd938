"""Small token files for the data tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megascale.data.writer import IndexedWriter

MakeSource = Callable[..., str]


@pytest.fixture(scope="session")
def make_source(tmp_path_factory: pytest.TempPathFactory) -> MakeSource:
    """Function (name, tokens, first_id=0, eos_every=0) -> prefix; ids count up from `first_id`."""
    folder = tmp_path_factory.mktemp("tokens")
    made: dict[tuple, str] = {}

    def make(name: str, tokens: int, *, first_id: int = 0, eos_every: int = 0) -> str:
        key = (name, tokens, first_id, eos_every)
        if key not in made:
            prefix = str(Path(folder) / "-".join(map(str, key)))
            ids = np.arange(first_id, first_id + tokens)
            if eos_every:
                ids = ids + 1
                ids[eos_every - 1 :: eos_every] = 0
            with IndexedWriter(prefix, vocab_size=200_000) as writer:
                writer.add(ids, np.array([tokens - tokens // 2, tokens // 2]))
                eos = 0 if eos_every else None
                writer.finish(tokenizer_sha256="t" * 64, eos_id=eos, details={})
            made[key] = prefix
        return made[key]

    return make
