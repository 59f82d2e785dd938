"""Exported tokenizers give transformers the ids that the tokens were made with."""

from __future__ import annotations

import json

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import trainers as train
from transformers import AutoTokenizer

from megascale.data.tokenize import TokenizerFile
from megascale.data.tokenizer_folder import tokenizer_files
from megascale.errors import DataError

TEXTS = [
    "Hello world, it's 12345 — naïve 世界\n\n  tabs\tand   spaces ",
    "def f(x):\n    return x+1",
    " leading, and don 't clean . this , up",
]
CORPUS = [*TEXTS, "the quick brown fox jumps over the lazy dog", "pack my box with jugs"] * 20
BYTES = pre_tokenizers.ByteLevel.alphabet()


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = train.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=BYTES,
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def own_split() -> Tokenizer:
    made = byte_level()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = train.UnigramTrainer(
        vocab_size=200,
        special_tokens=["<eos>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    made.decoder = decoders.WordPiece()
    trainer = train.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", "</s>"], show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def with_begin() -> Tokenizer:
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(
        CORPUS, train.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return made


KINDS = {
    make.__name__: (make, eos)
    for make, eos in (
        (byte_level, "<|endoftext|>"),
        (own_split, "<|endoftext|>"),
        (unigram, "<eos>"),
        (word_piece, "</s>"),
        (with_begin, "</s>"),
    )
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_moe"])
def test_transformers_loads_the_same(tmp_path, kind, model_type):
    make, eos = KINDS[kind]
    make().save(str(tmp_path / "tokenizer.json"))
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    hub = tmp_path / "hub"
    hub.mkdir()
    files, eos_id = tokenizer_files(tmp_path / "tokenizer.json")
    for name, content in files.items():
        (hub / name).write_bytes(content)
    (hub / "config.json").write_text(json.dumps({"model_type": model_type}))
    loaded = AutoTokenizer.from_pretrained(hub)
    assert (loaded.eos_token, loaded.eos_token_id) == (eos, eos_id)
    assert eos_id == plain.token_to_id(eos)
    assert len(loaded) == plain.get_vocab_size()
    for text in TEXTS:
        for added in (False, True):
            ids = plain.encode(text, add_special_tokens=added).ids
            assert loaded(text, add_special_tokens=added)["input_ids"] == ids
        ids = plain.encode(text, add_special_tokens=False).ids
        assert loaded.decode(ids) == plain.decode(ids, skip_special_tokens=False)


def test_a_stated_id(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    files, eos_id = tokenizer_files(tmp_path / "tokenizer.json", 5)
    text = TokenizerFile(tmp_path / "tokenizer.json").tokenizer.id_to_token(5)
    assert eos_id == 5
    assert json.loads(files["tokenizer_config.json"])["eos_token"] == text
    with pytest.raises(DataError, match="--eos-id = 9999"):
        tokenizer_files(tmp_path / "tokenizer.json", 9999)


@pytest.mark.parametrize(
    ("special", "ordinary", "asked", "wanted"),
    [
        (["<eos>"], ["</s>"], None, "<eos>"),
        (["<eos>"], ["</s>"], "</s>", "an ordinary token .* Nearest legal: <eos>"),
        (["<eos>", "</s>"], [], None, "several tokens .* </s> or <eos>"),
        (["<eos>", "</s>"], [], "<eos>", "<eos>"),
        (["<turn>"], ["</s>"], None, "no special token .* Nearest legal: <turn>"),
        (["<turn>"], [], "<turn>", "<turn>"),
        (["<eos>"], [], "<none>", "no token <none>"),
    ],
)
def test_only_special_tokens_end_documents(tmp_path, special, ordinary, asked, wanted):
    made = byte_level()
    made = Tokenizer(made.model)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(special)
    made.add_tokens(ordinary)
    content = json.loads(made.to_str())
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"] != "<|endoftext|>"
    ]
    content["model"]["vocab"]["<x>"] = content["model"]["vocab"].pop("<|endoftext|>")
    (tmp_path / "t.json").write_text(json.dumps(content))
    loaded = TokenizerFile(tmp_path / "t.json")
    if " " in wanted:
        with pytest.raises(DataError, match=wanted):
            loaded.eos_id(asked)
    else:
        assert loaded.eos_id(asked) == loaded.tokenizer.token_to_id(wanted)
