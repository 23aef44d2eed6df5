"""One adapter by every way in: Python, the command line, the server's dialects, and merged into a model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from chatglm3 import ChatGLM3
from chatglm3.adapters import write_base
from chatglm3.cli import main
from chatglm3.cli.arguments import parse_adapters
from chatglm3.config import ModelConfig
from chatglm3.errors import CheckpointError, DeviceError, InvalidParameterError
from chatglm3.server import Settings, create_app
from tests.adapters.files import random_lora
from tests.server.conftest import LiveServer
from tests.server.process import served
from tests.tiny import write_tiny_checkpoint

PROMPT = "hello world, how"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
NAMES = ("tiny", "poet", "clerk")


@dataclass(frozen=True)
class Folders:
    tiny: Path
    poet: Path
    clerk: Path

    @property
    def adapters(self) -> dict[str, Path]:
        return {"poet": self.poet, "clerk": self.clerk}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("served")
    tiny = write_tiny_checkpoint(root / "tiny")
    config = ModelConfig.from_folder(tiny)
    poet = random_lora(root / "poet", config, "glm", 1)
    clerk = random_lora(root / "clerk", config, "chatglm", 2)
    write_base(poet, "tiny", tiny)
    return Folders(tiny, poet, clerk)


@pytest.fixture(scope="module")
def expected(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each says, by the merged models."""
    root = tmp_path_factory.mktemp("merged")
    answers = {"tiny": ChatGLM3.load(folders.tiny).generate(PROMPT, **GREEDY)}
    for name, folder in folders.adapters.items():
        assert main(["merge", str(folders.tiny), str(folder), str(root / name)]) == 0
        answers[name] = ChatGLM3.load(root / name).generate(PROMPT, **GREEDY)
    assert len(set(answers.values())) == len(NAMES)
    return answers


def test_in_python(folders: Folders, expected: dict[str, str]) -> None:
    glm = ChatGLM3.load(folders.tiny, adapter=folders.adapters)
    assert glm.generate(PROMPT, **GREEDY) == expected["tiny"]
    for name in folders.adapters:
        assert glm.generate(PROMPT, adapter=name, **GREEDY) == expected[name]
        assert (
            ChatGLM3.load(folders.tiny, adapter=folders.adapters[name]).generate(PROMPT, **GREEDY)
            == expected[name]
        )
    chats = [glm.chat("hi", adapter=name, **GREEDY).content for name in (None, *folders.adapters)]
    assert len(set(chats)) == len(NAMES)


@pytest.fixture(scope="module")
def server(folders: Folders) -> Iterator[LiveServer]:
    glm = ChatGLM3.load(folders.tiny, adapter=folders.adapters)
    with LiveServer(glm, Settings(model_names=("tiny",))) as live:
        yield live
        live.wait_until_idle()


def test_in_the_server_side_by_side(server: LiveServer, expected: dict[str, str]) -> None:
    def ask(name: str) -> str:
        body = {"model": name, "prompt": PROMPT, **GREEDY}
        answer: str = server.http.post("/v1/completions", json=body).json()["choices"][0]["text"]
        return answer

    wanted = list(NAMES) * 6
    with ThreadPoolExecutor(len(wanted)) as pool:
        assert list(pool.map(ask, wanted)) == [expected[name] for name in wanted]


def test_every_dialect_knows_adapters_by_name(server: LiveServer, folders: Folders) -> None:
    glm = ChatGLM3.load(folders.tiny, adapter=folders.adapters)
    message = [{"role": "user", "content": "hi"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": message, **GREEDY},
        "/v1/responses": {"input": "hi", "temperature": 0, "max_output_tokens": 12},
        "/v1/messages": {"messages": message, **GREEDY},
    }
    answers = {}
    for path, body in bodies.items():
        for name in NAMES:
            data = server.http.post(path, json={**body, "model": name}).json()
            assert data["model"] == name
            match path:
                case "/v1/chat/completions":
                    text = data["choices"][0]["message"]["content"]
                case "/v1/responses":
                    text = data["output"][0]["content"][0]["text"]
                case _:
                    text = data["content"][0]["text"]
            answers[path, name] = text
    for name in NAMES:
        own = glm.chat("hi", adapter=None if name == "tiny" else name, **GREEDY).content
        assert [answers[path, name].strip() for path in bodies] == [own.strip()] * 3
    embeddings = [
        server.http.post("/v1/embeddings", json={"input": "hi", "model": name}).json()["data"][0]["embedding"]
        for name in NAMES
    ]
    assert len({tuple(vector) for vector in embeddings}) == len(NAMES)


def test_the_server_lists_them(server: LiveServer) -> None:
    models = server.http.get("/v1/models").json()["data"]
    assert {model["id"]: model["parent"] for model in models} == {
        "tiny": None,
        "poet": "tiny",
        "clerk": "tiny",
    }
    assert server.http.get("/v1/models/poet").json() == models[1]
    refused = server.http.post("/v1/completions", json={"model": "pirate", "prompt": "x"})
    assert refused.status_code == 404
    assert "there is 'tiny', 'poet', 'clerk'" in refused.json()["error"]["message"]


def test_in_a_server_of_its_own(folders: Folders, expected: dict[str, str]) -> None:
    with served(
        str(folders.tiny), "--adapter", f"poet={folders.poet}", "--adapter", str(folders.clerk)
    ) as own:
        for name in NAMES:
            body = {"model": name, "prompt": PROMPT, **GREEDY}
            answer = httpx2.post(f"{own.url}/v1/completions", json=body, timeout=60, trust_env=False).json()
            assert answer["choices"][0]["text"] == expected[name]


def test_two_models_of_one_name_are_refused(folders: Folders) -> None:
    glm = ChatGLM3.load(folders.tiny, adapter={"tiny": folders.poet})
    with pytest.raises(InvalidParameterError, match="'tiny' is the name of two"):
        create_app(glm, Settings(model_names=("tiny",)))


def test_on_the_command_line(
    folders: Folders, expected: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", str(folders.tiny), "--prompt", PROMPT, "--temperature", "0", "--max-tokens", "12"]
    for adapter in (str(folders.poet), f"any={folders.poet}"):
        assert main([*words, "--adapter", adapter]) == 0
        assert capsys.readouterr().out.removesuffix("\n") == expected["poet"]
    assert main([*words, "--adapter", str(folders.poet), "--adapter", str(folders.clerk)]) == 2
    assert "given 2 times, and here one answers" in capsys.readouterr().err
    assert main([*words, "--adapter", "nowhere"]) == 1
    assert "there is no adapter 'nowhere'" in capsys.readouterr().err


def test_merge_takes_the_tokenizer_along_and_quantizes(folders: Folders, tmp_path: Path) -> None:
    words = ["merge", str(folders.tiny), str(folders.poet), str(tmp_path / "small"), "--quantize", "int8"]
    assert main(words) == 0
    small = ChatGLM3.load(tmp_path / "small")
    assert small.config.quantization is not None
    assert small.generate(PROMPT, **GREEDY)
    assert main(words) == 1  # there are weights already


def test_a_quantized_copy_takes_the_adapters_of_its_original(folders: Folders, tmp_path: Path) -> None:
    assert main(["quantize", str(folders.tiny), str(tmp_path / "int8"), "--scheme", "int8"]) == 0
    assert ChatGLM3.load(tmp_path / "int8", adapter=folders.poet).generate(PROMPT, **GREEDY)
    assert ChatGLM3.load(folders.tiny, quantize="int8", adapter=folders.poet).generate(PROMPT, **GREEDY)


def test_a_wrong_base_is_named_with_the_right_one(folders: Folders, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert main(["merge", str(folders.tiny), str(folders.clerk), str(other)]) == 0
    with pytest.raises(CheckpointError, match=r"was trained on tiny, and .*other holds other weights"):
        ChatGLM3.load(other, adapter=folders.poet)
    shutil.copytree(folders.poet, tmp_path / "unsigned")
    (tmp_path / "unsigned" / "base.json").unlink()
    ChatGLM3.load(other, adapter=tmp_path / "unsigned")


def test_too_little_memory_is_said_before_it_is_taken(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatglm3.loading.free_memory", lambda device: 1000)
    with pytest.raises(DeviceError, match=r"the adapter 'poet' takes 0\.00 GB"):
        ChatGLM3.load(folders.tiny, adapter=folders.poet, cache_bytes=10**6)


def test_names_of_adapters(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    given = ["poet=./x", f"{tmp_path}/a=b", "some/clerk/"]
    assert parse_adapters(given) == {
        "poet": Path("x"),
        "a=b": tmp_path / "a=b",
        "clerk": Path("some/clerk"),
    }
    for wrong, complaint in (
        (["=x"], "give a folder"),
        (["x="], "give a folder"),
        (["a=x", "a=y"], "two adapters are named 'a'"),
    ):
        with pytest.raises(InvalidParameterError, match=complaint):
            parse_adapters(wrong)
