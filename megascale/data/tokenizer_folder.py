"""A tokenizer as hub files that transformers loads as the same tokenizer.

Without a `tokenizer_config.json` AutoTokenizer chooses a class by the model's type, and that class
puts its own pre-tokenizer in the place of the file's: other ids. The class named here takes
`tokenizer.json` as it is.
"""

from __future__ import annotations

import json
from pathlib import Path

from megascale.data.tokenize import TokenizerFile
from megascale.errors import DataError


def tokenizer_files(
    path: str | Path, eos_id: int | None = None
) -> tuple[dict[str, bytes], int | None]:
    """The files that make a tokenizer of a hub folder, and the id that ends a document.

    Args:
        path: `tokenizer.json`.
        eos_id: id of the token that ends a document; None takes the one special token that
            usually does, and none where there is no such token or more than one.

    Returns:
        Name and content of each file; the id, None where no token is known to end a document.

    Raises:
        DataError: not a tokenizer, or it has no token of that id.
    """
    loaded = TokenizerFile(path)
    if eos_id is None:
        usual = loaded.usual_eos()
        eos = usual[0] if len(usual) == 1 else None
    else:
        eos = loaded.tokenizer.id_to_token(eos_id)
        if eos is None:
            rule = f"{path} has no token of this id; ids are below {loaded.vocab_size}"
            raise DataError.of("--eos-id", eos_id, rule)
    settings: dict[str, str | int | bool] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(1e30),
        "add_bos_token": False,
        "add_eos_token": False,
    }
    if eos is not None:
        settings["eos_token"] = eos
        eos_id = loaded.tokenizer.token_to_id(eos)
    files = {
        "tokenizer.json": Path(path).read_bytes(),
        "tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode(),
    }
    return files, eos_id
