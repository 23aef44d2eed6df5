"""Vectors from a sentence-transformers model, here a tiny one with random weights."""

from __future__ import annotations

import math
import string
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatglm3 import ChatGLM3
from chatglm3.errors import ChatGLM3Error, InvalidParameterError
from chatglm3.server import Settings, create_app
from chatglm3.server.sentences import SentenceModel
from tests.server.conftest import LiveServer

SIZE = 16
LONGEST = 40
TEXTS = ["hello world", "a", "weather in paris"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the extra `embeddings`")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    root = tmp_path_factory.mktemp("sentences")
    letters = [*string.ascii_lowercase, *("##" + letter for letter in string.ascii_lowercase)]
    (root / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]))
    BertTokenizer(str(root / "vocab.txt")).save_pretrained(root)
    config = BertConfig(
        vocab_size=5 + len(letters),
        hidden_size=SIZE,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LONGEST,
    )
    BertModel(config).save_pretrained(root)
    model = sentence_transformers.SentenceTransformer(
        modules=[Transformer(str(root)), Pooling(SIZE)], device="cpu"
    )
    model.save(str(root / "tiny-sentences"))
    return root / "tiny-sentences"


@pytest.fixture(scope="module")
def sentences(folder: Path) -> SentenceModel:
    return SentenceModel(str(folder), ["tiny-sentences", "org/tiny-sentences"], "cpu")


@pytest.fixture(scope="module")
def server(load_tiny: Callable[[], ChatGLM3], sentences: SentenceModel) -> Iterator[LiveServer]:
    with LiveServer(load_tiny(), Settings(model_names=("tiny",)), sentences) as live:
        yield live


def test_vectors_are_those_of_sentence_transformers(server: LiveServer, sentences: SentenceModel) -> None:
    for name in sentences.names:
        answer = server.http.post("/v1/embeddings", json={"model": name, "input": TEXTS}).json()
        assert answer["model"] == name
        assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
        expected = sentences._model.encode(TEXTS, normalize_embeddings=True)
        for entry, vector in zip(answer["data"], expected, strict=True):
            assert entry["embedding"] == pytest.approx(vector.tolist(), abs=1e-6)
            assert math.hypot(*entry["embedding"]) == pytest.approx(1)
    # each letter is a token, and [CLS] and [SEP] surround a text
    assert answer["usage"]["prompt_tokens"] == sum(len(text.replace(" ", "")) + 2 for text in TEXTS)


def test_more_texts_than_are_embedded_together(server: LiveServer) -> None:
    texts = [f"{'ab' * (i % 9)} c" for i in range(70)]
    many = server.http.post("/v1/embeddings", json={"model": "tiny-sentences", "input": texts}).json()
    one = server.http.post("/v1/embeddings", json={"model": "tiny-sentences", "input": texts[69]}).json()
    assert many["data"][69]["embedding"] == pytest.approx(one["data"][0]["embedding"], abs=1e-5)


def test_the_model_s_own_vectors_are_still_there(server: LiveServer) -> None:
    for model in ({}, {"model": "tiny"}):
        answer = server.http.post("/v1/embeddings", json={"input": "hello", **model}).json()
        assert len(answer["data"][0]["embedding"]) != SIZE


def test_its_names_are_listed_and_are_for_embeddings_only(server: LiveServer) -> None:
    listed = {model["id"]: model for model in server.http.get("/v1/models").json()["data"]}
    assert list(listed) == ["tiny", "tiny-sentences", "org/tiny-sentences"]
    assert listed["tiny-sentences"]["max_model_len"] == LONGEST
    assert server.http.get("/v1/models/org/tiny-sentences").status_code == 200
    body = {"model": "tiny-sentences", "messages": [{"role": "user", "content": "hello"}]}
    response = server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 404
    assert "anything but embeddings" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param", "complaint"),
    [
        ({"input": ["a", "a" * LONGEST]}, "input", f"text 1 has {LONGEST + 2} tokens"),
        ({"input": [5, 6]}, "input", "give texts"),
        ({"input": "a", "dimensions": 8}, "dimensions", f"only be {SIZE}"),
    ],
)
def test_what_it_cannot_embed(server: LiveServer, fields: dict, param: str, complaint: str) -> None:
    response = server.http.post("/v1/embeddings", json={"model": "tiny-sentences", **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert complaint in response.json()["error"]["message"]


def test_names_that_are_taken(alone: ChatGLM3, sentences: SentenceModel) -> None:
    with pytest.raises(InvalidParameterError, match="'tiny-sentences' is the name of two"):
        create_app(alone, Settings(model_names=("tiny-sentences",)), sentences)


def test_a_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ChatGLM3Error, match="cannot be loaded"):
        SentenceModel(str(tmp_path), ["x"])
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ChatGLM3Error, match=r"pip install 'chatglm3\[embeddings\]'"):
        SentenceModel("any", ["x"])
