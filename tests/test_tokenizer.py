from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from chatglm3.errors import TokenizerError
from chatglm3.tokenizer import ROLE_TOKENS, SPECIAL_TOKENS, StreamingDetokenizer, Tokenizer
from tests.tokenizers import tiny_tokenizer_file

TINY = Tokenizer(tiny_tokenizer_file())
PIECES = sentencepiece.SentencePieceProcessor(model_file=str(tiny_tokenizer_file()))


def jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


@pytest.fixture(scope="module")
def published(fixtures_dir: Path) -> Tokenizer:
    return Tokenizer(fixtures_dir / "tokenizer.model")


def halves(fixtures_dir: Path, name: str) -> Iterator[dict[str, Any]]:
    files = sorted(fixtures_dir.glob(f"*/tokenizer/{name}.jsonl"))
    assert files
    for file in files:
        yield from jsonl(file)


# The published tokenizer


def test_special_ids_are_the_published_ones(published: Tokenizer, fixtures_dir: Path) -> None:
    expected = json.loads((fixtures_dir / "special_tokens.json").read_text())
    assert published.vocab_size == expected["vocab_size"]
    assert published.special_ids == expected["special_tokens"]
    assert published.prefix_ids == expected["prefix_tokens"]
    assert published.stop_ids == set(expected["stop_token_ids_for_chat"])
    assert published.encode("\n") == expected["newline_ids"]
    for name in ("pad_id", "unk_id", "bos_id", "eos_id"):
        assert getattr(published, name) == expected[name]


def test_published_text_cases(published: Tokenizer, fixtures_dir: Path) -> None:
    for case in halves(fixtures_dir, "tokenizer_cases"):
        ids = published.encode(case["text"])
        assert ids == case["ids"], case["id"]
        assert published.prefix_ids + ids == case["ids_special"], case["id"]
        assert [published.id_to_piece(i) for i in ids] == case["pieces"], case["id"]
        assert published.decode(ids) == case["decode"], case["id"]
        assert published.decode(case["ids_special"]) == case["decode_special"], case["id"]
        assert published.decode_runs(ids) == case["sp_decode"], case["id"]
        assert (published.decode(ids) == case["text"]) is case["roundtrip"], case["id"]
        with_roles = case.get("ids_role_tokens", case["ids"])
        assert published.encode(case["text"], role_tokens=True) == with_roles, case["id"]


def test_published_decode_cases(published: Tokenizer, fixtures_dir: Path) -> None:
    for case in halves(fixtures_dir, "decode_cases"):
        assert [published.id_to_piece(i) for i in case["ids"]] == case["tokens"], case["id"]
        assert published.decode(case["ids"]) == case["decode"] == case["decode_skip_special"], case["id"]
        if "sp_decode" in case:
            assert published.decode_runs(case["ids"]) == case["sp_decode"], case["id"]


# Any vocabulary


def test_special_ids_follow_from_the_size_of_the_vocabulary() -> None:
    size = PIECES.vocab_size()
    assert TINY.vocab_size == size + 9
    assert list(TINY.special_ids.items()) == [(name, size + i) for i, name in enumerate(SPECIAL_TOKENS)]
    assert (TINY.pad_id, TINY.unk_id, TINY.bos_id, TINY.eos_id) == (0, 0, 1, 2)


@given(
    st.lists(
        st.one_of(st.text(max_size=5), st.sampled_from([*SPECIAL_TOKENS, "<s>", "</s>", "<unk>", "<0x0A>"]))
    )
)
def test_text_never_forges_a_special_token_and_comes_back(parts: list[str]) -> None:
    text = "".join(parts)
    ids = TINY.encode(text)
    assert all(2 < i < PIECES.vocab_size() for i in ids)
    assert TINY.decode(ids) == text.replace("▁", " ")


def test_role_tokens_are_read_only_when_asked_for() -> None:
    ids = TINY.encode("<|user|>hi<|assistant|>[gMASK]", role_tokens=True)
    assert ids == [TINY.user_id, *TINY.encode("hi"), TINY.assistant_id, *TINY.encode("[gMASK]")]
    assert not set(TINY.encode("".join(ROLE_TOKENS))) & set(TINY.special_ids.values())


def test_bytes_of_a_token() -> None:
    ids = TINY.encode("好🙏 a")
    assert b"".join(map(TINY.token_bytes, ids)) == " 好🙏 a".encode()
    assert TINY.token_bytes(TINY.user_id) == b"<|user|>"
    assert TINY.token_bytes(TINY.eos_id) == b""


def test_threads_share_a_tokenizer() -> None:
    texts = [f"{i} 你好 🙏 hello" * 20 for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: TINY.decode(TINY.encode(text)), texts)) == texts


# Streaming

byte_ids = st.integers(3, 258)
any_id = st.one_of(byte_ids, st.integers(0, TINY.vocab_size + 20))


def stream(ids: list[int]) -> list[str]:
    detokenizer = StreamingDetokenizer(TINY)
    return [*map(detokenizer.add, ids), detokenizer.finish()]


def sentencepiece_text(ids: list[int]) -> str:
    """SentencePiece's own decoding, where a token that is no piece stands as itself."""
    return PIECES.decode_pieces([TINY.id_to_piece(i) for i in ids])


@given(st.lists(any_id, max_size=30))
def test_decoding_follows_sentencepiece(ids: list[int]) -> None:
    assert TINY.decode(ids) == "".join(stream(ids)) == sentencepiece_text(ids)


@given(st.binary(max_size=12))
def test_invalid_utf8_follows_sentencepiece(data: bytes) -> None:
    ids = [3 + byte for byte in data]
    assert TINY.decode(ids) == sentencepiece_text(ids)


@given(st.text(max_size=20), st.lists(any_id, max_size=5))
def test_what_is_said_is_never_taken_back(text: str, more: list[int]) -> None:
    """What was streamed is a prefix of the whole, and whole characters never show a replacement."""
    ids = TINY.encode(text) + more
    said = ""
    detokenizer = StreamingDetokenizer(TINY)
    for i in ids:
        said += detokenizer.add(i)
        assert TINY.decode(ids).startswith(said)
    assert ("\ufffd" in "".join(stream(TINY.encode(text)))) == ("\ufffd" in text)


def test_a_split_character_waits_for_its_last_byte() -> None:
    ids = [3 + byte for byte in "🙏".encode()]
    assert stream(ids) == ["", "", "", "🙏", ""]
    assert stream(ids[:2]) == ["", "", "\ufffd\ufffd"]
    assert stream([*ids[:2], TINY.user_id]) == ["", "", "\ufffd\ufffd<|user|>", ""]


def test_streaming_cost_does_not_grow_with_the_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[int] = []
    text_of = TINY._text
    monkeypatch.setattr(TINY, "_text", lambda i: looked_up.append(i) or text_of(i))
    ids = [i for i in TINY.encode("hello world " * 500) if i not in TINY._bytes]
    stream(ids)
    assert len(looked_up) == len(ids)


def test_pending_bytes_are_at_most_three() -> None:
    detokenizer = StreamingDetokenizer(TINY)
    for i in range(3, 259):
        for _ in range(5):
            detokenizer.add(i)
            assert len(detokenizer._pending) <= 3


# Bad input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "NoneType"),
        (b"hi", "bytes"),
        (5, "int"),
        (["hi"], "list"),
        ("a\ud83d", "lone surrogate.*position 1"),
    ],
)
def test_what_is_not_text_is_refused(text: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        TINY.encode(text)


def test_negative_ids_are_refused() -> None:
    for decode in (TINY.decode, TINY.decode_runs):
        with pytest.raises(TokenizerError, match="-1"):
            decode([5, -1])
    assert TINY.decode([TINY.vocab_size, 10**6]) == ""


@pytest.mark.parametrize("damage", [b"", b"not a model", None])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes | None) -> None:
    file = tmp_path / "tokenizer.model"
    with pytest.raises(TokenizerError, match=r"there is no .*tokenizer\.model"):
        Tokenizer(tmp_path)
    file.write_bytes(tiny_tokenizer_file().read_bytes()[:3000] if damage is None else damage)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model is damaged"):
        Tokenizer(tmp_path)


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="remove_extra_whitespaces=False"):
        Tokenizer(tiny_tokenizer_file(remove_extra_whitespaces=True))
