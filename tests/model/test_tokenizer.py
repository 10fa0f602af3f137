"""The tokenizer against openai-harmony and the `tokenizers` library, and its own promises."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer

from osslo.errors import CheckpointError, ConfigurationError, PackedFileError
from osslo.model.tokenizer import (
    QUICK_CHARACTERS,
    Detokenizer,
    Tokenizer,
    harmony_tokenizer_from_ranks,
)
from osslo.model.tokenizer_encoders import QuickEncoder, build_library_encoder, is_quick
from osslo.model.tokenizer_sources import from_json, o200k_ranks_path, read_ranks
from osslo.model.vocabulary import bytes_to_name

TRICKY = [
    "",
    "Hello world",
    "What <|end|> is <|start|>this<|message|>?<|return|><|endoftext|>",
    "  \n\n  x\t\ty   \n",
    "naïve café 你好世界 🏴‍☠️👩‍👩‍👧 ﷽",
    "12345678901 3.14159 ¾ ٣٤٥",
    "don't DON'T I'LL we've 'S",
    "\u00a0\u2003x\r\n\r\n\x00\x1f",
    "हिन्दी العربية ไทย עברית",
    "def f(x):\n    return [x] * 5  # http://a/b//\n/",
    "ǅunction ΑΒΓ camelCaseHTTPServer",
    "e\u0301 \u1100\u1161\u11a8",
    "a" * 300,
]


@pytest.fixture(scope="module")
def harmony() -> Tokenizer:
    return harmony_tokenizer_from_ranks()


def small_json(**changes: object) -> str:
    """A tokenizer of all 256 bytes, three merges and a few added tokens."""
    names = [bytes_to_name(bytes([b])) for b in range(256)] + ["th", "the", "Ġthe"]
    pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "normalizer": None,
        "pre_tokenizer": pre,
        "post_processor": None,
        "decoder": pre,
        "added_tokens": [
            {"id": 259, "content": "<|start|>", "special": True},
            {"id": 260, "content": "<|end|>", "special": False},
            {"id": 262, "content": "<tool>", "special": False},
        ],
        "model": {
            "type": "BPE",
            "vocab": {name: token for token, name in enumerate(names)},
            "merges": [["t", "h"], "th e", ["Ġ", "the"]],
        },
    }
    return json.dumps(document | changes)


SMALL = Tokenizer.from_json(small_json())


# --- encoding -------------------------------------------------------------------------------------


def test_harmony_ids_equal_openai_harmony(
    harmony: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = gzip.decompress(o200k_ranks_path().read_bytes())
    (tmp_path / "o200k_base.tiktoken").write_bytes(ranks)
    monkeypatch.setenv("TIKTOKEN_ENCODINGS_BASE", str(tmp_path))
    from openai_harmony import load_harmony_encoding

    official = load_harmony_encoding("HarmonyGptOss")
    for text in TRICKY:
        assert harmony.encode(text) == official.encode(text, disallowed_special=()), text
    # tokenizer.json names 200018; 201088 lies past the model's rows.
    unshared = {"<|reserved_200018|>", "<|reserved_201088|>"}
    for name in official.special_tokens_set - unshared:
        assert official.encode(name, allowed_special="all") == [harmony.special(name)]
    assert harmony.vocab_size == 201_088
    assert harmony.special("<|reserved_200013|>") == 200_013


def test_special_text_stays_text() -> None:
    for name in SMALL.specials:
        ids = SMALL.encode(f"a {name} b")
        assert not any(SMALL.is_special(token) for token in ids)
        assert SMALL.decode(ids) == f"a {name} b"


def test_a_marker_is_special_even_where_the_file_denies_it() -> None:
    assert SMALL.special("<|end|>") == 260
    assert 262 in SMALL.encode("x<tool>")


def test_a_files_truncation_and_template_are_not_applied() -> None:
    assert len(SMALL.encode("zzzzzzzzzz")) == 10


def test_merges_apply() -> None:
    assert SMALL.encode("the the") == [257, 258]


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_encode_decode_round_trip(text: str) -> None:
    assert SMALL.decode(SMALL.encode(text)) == text


def test_lone_surrogates_become_replacement_characters() -> None:
    assert SMALL.decode(SMALL.encode("a\ud83d\ude00b\ud800")) == "a😀b\ufffd"


# --- two encoders, the same ids -------------------------------------------------------------------


def merging_json(*, ignore_merges: bool) -> str:
    """Many merges over few letters, of which some tie, cross and can be reached in two ways."""
    names = [bytes_to_name(bytes([b])) for b in range(256)]
    merges = [("b", "a"), ("a", "b"), ("a", "a"), ("aa", "aa"), ("ab", "ab"), ("ba", "b")]
    merges += [("Ġ", "ab"), ("aaaa", "b"), ("a", "aaaa"), ("Ã", "©"), ("Ġab", "aa")]
    names += ["".join(pair) for pair in merges] + ["abba", "Ġbbb"]  # two that no merge reaches
    model = {
        "type": "BPE",
        "ignore_merges": ignore_merges,
        "vocab": {name: token for token, name in enumerate(names)},
        "merges": [list(pair) for pair in merges],
    }
    added = [{"id": len(names), "content": "<|end|>", "special": True}]
    return small_json(model=model, added_tokens=added)


@pytest.mark.parametrize("ignore_merges", [False, True])
@given(text=st.text(st.sampled_from("ab é\n")) | st.text() | st.just("<|end|> abba bbb"))
@settings(max_examples=300, deadline=None)
def test_the_quick_encoder_equals_the_library(ignore_merges: bool, text: str) -> None:
    spec = from_json(merging_json(ignore_merges=ignore_merges), origin="test")
    library = build_library_encoder(spec)
    assert QuickEncoder(spec).encode(text) == library.encode(text, add_special_tokens=False).ids


def test_a_long_text_changes_the_encoder_but_no_id(harmony: Tokenizer) -> None:
    tokenizer = Tokenizer.from_packed(harmony.to_packed())
    longest = " ".join(TRICKY) * 100
    texts = [text[:length] for text in (longest, "a" * 20_000) for length in (300, 16_384)]
    first = [tokenizer.encode(text) for text in texts]
    assert len(longest) > QUICK_CHARACTERS
    assert tokenizer.decode(tokenizer.encode(longest)) == longest
    assert [tokenizer.encode(text) for text in texts] == first


def test_text_that_is_changed_or_searched_first_needs_the_library() -> None:
    quick = merging_json(ignore_merges=True)
    normalizing = json.dumps(json.loads(quick) | {"normalizer": {"type": "NFC"}})
    assert is_quick(from_json(quick, origin="test"))
    assert not is_quick(from_json(normalizing, origin="test"))
    assert not is_quick(from_json(small_json(), origin="test"))  # <tool> is found in text
    composed = Tokenizer.from_json(quick).encode("é")
    assert Tokenizer.from_json(normalizing).encode("e\u0301") == composed
    assert len(composed) == 1


# --- decoding -------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(min_value=0, max_value=263), max_size=6)), st.booleans())
@settings(max_examples=300, deadline=None)
def test_streamed_equals_whole(chunks: list[list[int]], skip: bool) -> None:
    detokenizer = Detokenizer(SMALL, skip_specials=skip)
    streamed = "".join(map(detokenizer.feed, chunks)) + detokenizer.finish()
    ids = [token for chunk in chunks for token in chunk]
    assert streamed == SMALL.decode(ids, skip_specials=skip)


def test_detokenizer_holds_incomplete_characters(harmony: Tokenizer) -> None:
    emoji = "🏴‍☠️"
    detokenizer = Detokenizer(harmony)
    pieces = [detokenizer.feed([token]) for token in harmony.encode(emoji)]
    assert "\ufffd" not in "".join(pieces)
    assert "" in pieces
    assert "".join(pieces) + detokenizer.finish() == emoji


def test_detokenizer_finish_gives_the_cut_off_character_and_starts_afresh() -> None:
    detokenizer = Detokenizer(SMALL)
    assert detokenizer.feed([0xF0, 0x9F]) == ""
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.feed([ord("x")]) == "x"


def test_token_bytes_are_exact_for_every_id(harmony: Tokenizer) -> None:
    ranks = read_ranks(o200k_ranks_path())
    table = harmony.token_table()
    assert len(table) == harmony.vocab_size
    assert all(table[rank] == token for token, rank in ranks.items())
    assert harmony.token_bytes(harmony.special("<|call|>")) == b"<|call|>"
    assert harmony.token_bytes(10**9) == harmony.token_bytes(-1) == b""
    assert SMALL.token_bytes(261) == b""  # a gap between added tokens


def test_skip_specials() -> None:
    ids = [259, *SMALL.encode("hi"), 260]
    assert SMALL.decode(ids) == "<|start|>hi<|end|>"
    assert SMALL.decode(ids, skip_specials=True) == "hi"


# --- forms ----------------------------------------------------------------------------------------


def test_json_and_packed_forms_are_the_same_tokenizer(harmony: Tokenizer) -> None:
    reread = Tokenizer.from_json(harmony.to_json())
    from_packed = Tokenizer.from_packed(harmony.to_packed())
    library = LibraryTokenizer.from_str(harmony.to_json())
    library.encode_special_tokens = True
    for text in TRICKY:
        expected = harmony.encode(text)
        assert reread.encode(text) == from_packed.encode(text) == expected
        assert library.encode(text, add_special_tokens=False).ids == expected
    assert from_packed.specials == harmony.specials
    assert from_packed.token_table() == harmony.token_table()


def test_packed_form_survives_gaps() -> None:
    again = Tokenizer.from_packed(SMALL.to_packed())
    assert again.token_table() == SMALL.token_table()
    assert again.encode("the <tool>") == SMALL.encode("the <tool>")


def test_from_gguf_equals_the_json_it_came_from(harmony: Tokenizer) -> None:
    document = json.loads(harmony.to_json())
    tokens = list(document["model"]["vocab"])
    names = tokens + [entry["content"] for entry in document["added_tokens"]]
    names[200_100:] = [f"[PAD{i}]" for i in range(200_100, 201_088)]
    types = [1] * len(tokens) + [3] * (200_100 - len(tokens)) + [5] * (201_088 - 200_100)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-4o",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(m) for m in document["model"]["merges"]],
    }
    rebuilt = Tokenizer.from_gguf(metadata)
    for text in TRICKY:
        assert rebuilt.encode(text) == harmony.encode(text)
    assert rebuilt.special("<|call|>") == 200_012
    assert rebuilt.token_bytes(200_500) == b""
    assert rebuilt.vocab_size == 200_100


# --- errors ---------------------------------------------------------------------------------------


def test_missing_special_names_it() -> None:
    with pytest.raises(ConfigurationError, match=r"<\|nope\|>"):
        SMALL.special("<|nope|>")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        small_json(model={"type": "Unigram", "vocab": []}),
        small_json(pre_tokenizer=None),
        small_json(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}),
        small_json(model={"type": "BPE", "vocab": {"↑": 0}, "merges": []}),
        small_json(added_tokens=[{"content": "x"}]),
    ],
)
def test_unusable_json_is_one_clear_error(text: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_json(text)
    assert "\n" not in caught.value.message


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_unknown_gguf_pre_is_named() -> None:
    with pytest.raises(CheckpointError, match="'klingon'"):
        Tokenizer.from_gguf({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "klingon"})


@given(st.integers(min_value=0))
@settings(max_examples=100, deadline=None)
def test_truncated_packed_form_is_refused(cut: int) -> None:
    packed = SMALL.to_packed()
    with pytest.raises(PackedFileError):
        Tokenizer.from_packed(packed[: cut % len(packed)])


@given(st.integers(0, 400), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_damaged_packed_form_loads_or_is_refused(at: int, flip: int) -> None:
    packed = bytearray(SMALL.to_packed())
    packed[at] ^= flip
    try:
        damaged = Tokenizer.from_packed(bytes(packed))
    except PackedFileError:
        return
    assert len(damaged.token_table()) == damaged.vocab_size
