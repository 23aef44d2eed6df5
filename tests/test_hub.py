"""A name leads to a folder: every kind of name, every way to fail, against a hub played on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlparse

import pytest
from huggingface_hub import constants

from chatglm3 import hub
from chatglm3.errors import ModelNotFoundError

COMMIT = "a" * 40
SAFETENSORS = 1 << 22
"""Bytes of the file whose download is cut: more than the client reads at a time."""


class Hub(BaseHTTPRequestHandler):
    """The few routes of huggingface.co that a snapshot download takes."""

    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
    cut_once: ClassVar[set[str]] = set()
    requests: ClassVar[list[tuple[str, str, str | None]]] = []
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = urlparse(self.path).path
        self.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name = "/".join(parts[:2])
        if name == "org/gated":
            return self.send(403, error="GatedRepo")
        if name == "org/private" and self.headers.get("Authorization") != "Bearer right":
            return self.send(401, error="RepoNotFound")
        if name == "org/expired":
            return self.send(401)
        if name == "org/broken":
            return self.send(500)
        files = self.repositories.get(name)
        if files is None:
            return self.send(404, error="RepoNotFound")
        if "revision" in parts and parts[-1] not in ("main", COMMIT):
            return self.send(404, error="RevisionNotFound")
        if not path.startswith("/api/"):
            return self.send_file(parts[-1], files[parts[-1]])
        if "tree" in parts:
            oids = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
            listing = [
                {"type": "file", "path": name, "size": len(content), "oid": oids[name]}
                for name, content in files.items()
            ]
            return self.send(200, json.dumps(listing).encode())
        siblings = [{"rfilename": name} for name in files]
        self.send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())

    def send_file(self, name: str, content: bytes) -> None:
        start = 0
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            if name in self.cut_once:
                self.cut_once.discard(name)
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            else:
                self.wfile.write(content[start:])

    def send(self, status: int, body: bytes = b"", error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    """A hub at HF_ENDPOINT, and an empty cache."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    point_at(f"http://127.0.0.1:{http.server_port}", tmp_path / "cache", monkeypatch)
    Hub.repositories.clear()
    Hub.cut_once.clear()
    Hub.requests.clear()
    yield Hub
    http.shutdown()
    thread.join()
    http.server_close()


def point_at(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT and HF_HOME do when the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)


METADATA = {"config.json": b"{}", "tokenizer.model": b"pieces", "tokenizer_config.json": b"{}"}
NOISE = {"README.md": b"text", "modeling_chatglm.py": b"code", "onnx/model.safetensors": b"other"}


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_downloads_what_a_model_needs_and_no_more(server: type[Hub]) -> None:
    weights = {"model-00001-of-00002.safetensors": b"1", "model-00002-of-00002.safetensors": b"22"}
    index = {"model.safetensors.index.json": b"{}"}
    pickles = {"pytorch_model-00001-of-00001.bin": b"333", "pytorch_model.bin.index.json": b"{}"}
    server.repositories["org/model"] = METADATA | weights | index | pickles | NOISE
    folder = hub.resolve("org/model")
    assert names(folder) == set(METADATA | weights | index)
    assert all((folder / name).read_bytes() == content for name, content in weights.items())


def test_takes_pickles_where_there_are_no_safetensors(server: type[Hub]) -> None:
    pickles = {"pytorch_model.bin": b"333"}
    server.repositories["org/model"] = METADATA | pickles | NOISE
    assert names(hub.resolve("org/model")) == set(METADATA | pickles)


def test_tokenizer_alone_takes_no_weights(server: type[Hub]) -> None:
    server.repositories["org/model"] = METADATA | {"model.safetensors": b"1"}
    assert names(hub.resolve("org/model", weights=False)) == set(METADATA)


def test_short_names_are_the_published_models(server: type[Hub]) -> None:
    server.repositories["zai-org/chatglm3-6b"] = METADATA | {"model.safetensors": b"1"}
    assert "model.safetensors" in names(hub.resolve("chatglm3-6b"))


def test_a_cut_download_resumes_where_it_was_cut(server: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", SAFETENSORS // 8)
    content = bytes(range(256)) * (SAFETENSORS // 256)
    server.repositories["org/model"] = METADATA | {"model.safetensors": content}
    server.cut_once.add("model.safetensors")
    try:
        folder = hub.resolve("org/model")
    except ModelNotFoundError as error:
        assert "run it again to resume" in str(error)  # noqa: PT017
        folder = hub.resolve("org/model")
    assert (folder / "model.safetensors").read_bytes() == content
    gets = [
        asked for method, path, asked in server.requests if method == "GET" and path.endswith(".safetensors")
    ]
    assert len(gets) == 2
    assert gets[0] is None
    assert gets[1] is not None
    assert 0 < int(gets[1].removeprefix("bytes=").rstrip("-").split("-")[0]) <= SAFETENSORS // 2


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_offline_the_cache_answers(server: type[Hub], weights: str) -> None:
    server.repositories["org/model"] = METADATA | {weights: b"1"}
    online = hub.resolve("org/model")
    server.requests.clear()
    assert hub.resolve("org/model", offline=True) == online
    assert server.requests == []
    with pytest.raises(ModelNotFoundError, match=r"org/other: .*not wholly, in the cache.*HF_HUB_OFFLINE"):
        hub.resolve("org/other", offline=True)


def test_the_environment_names_mirror_and_offline_mode(server: type[Hub], tmp_path: Path) -> None:
    server.repositories["org/model"] = METADATA | {"model.safetensors": b"1"}
    script = "from chatglm3 import hub; print(hub.resolve('org/model'))"
    settings = {"HF_ENDPOINT": constants.ENDPOINT, "HF_HOME": str(tmp_path / "home")}

    def run(**extra: str) -> str:
        environment = os.environ | settings | extra
        return subprocess.check_output([sys.executable, "-c", script], env=environment, text=True).strip()

    folder = run()
    assert folder.startswith(settings["HF_HOME"])
    server.requests.clear()
    assert run(HF_HUB_OFFLINE="1") == folder
    assert server.requests == []


def test_without_a_network_the_cache_answers_or_the_error_says_so(
    server: type[Hub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.repositories["org/model"] = METADATA | {"model.safetensors": b"1"}
    online = hub.resolve("org/model")
    point_at("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    assert hub.resolve("org/model") == online
    with pytest.raises(
        ModelNotFoundError, match=r"http://127.0.0.1:9 cannot be reached.*HF_ENDPOINT.*'nano'"
    ):
        hub.resolve("org/other")


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("org/none", None, "has no such model; check the spelling"),
        ("org/gated", None, "asks for consent: accept at http://127.0.0.1:.*/org/gated"),
        ("org/private", None, "does not exist or is private; for a private one `hf auth login`"),
        ("org/expired", None, r"refused the token \(401\).*HF_TOKEN"),
        ("org/broken", None, "answered 500; try again later"),
        ("org/model", "v9", "no revision 'v9'"),
    ],
)
def test_each_refusal_is_one_clear_line(
    server: type[Hub], name: str, revision: str | None, message: str
) -> None:
    server.repositories["org/model"] = METADATA
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        hub.resolve(name, revision=revision)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_a_token_opens_a_private_model(server: type[Hub]) -> None:
    server.repositories["org/private"] = METADATA | {"model.safetensors": b"1"}
    assert hub.resolve("org/private", token="right").is_dir()


def test_folders_come_first(server: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    (tmp_path / "nano").mkdir()
    assert hub.resolve("org/model") == Path("org/model")
    assert hub.resolve(tmp_path) == tmp_path
    assert hub.resolve("./nano") == Path("nano")
    assert hub.resolve("nano") == Path(hub.__file__).parent / "models" / "nano"
    assert server.requests == []


def test_a_mistyped_path_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "chatglm3-base").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"did you mean .*chatglm3-base\?"):
        hub.resolve(tmp_path / "chatglm3-bsae")
    with pytest.raises(ModelNotFoundError, match=r"did you mean nano\?"):
        hub.resolve("nanoo")
    with pytest.raises(ModelNotFoundError, match="is a file; give the folder"):
        hub.resolve(tmp_path / "weights.bin")
    for nonsense in ("", "a b", "a/b/c", "../gone"):
        with pytest.raises(ModelNotFoundError, match="no name of a model"):
            hub.resolve(nonsense)


def test_modelscope_is_asked_only_where_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelNotFoundError, match=r"pip install 'chatglm3\[modelscope\]'"):
        hub.resolve("modelscope:ZhipuAI/chatglm3-6b")
    with pytest.raises(ModelNotFoundError, match="no ModelScope id"):
        hub.resolve("modelscope:nobody")

    calls = []

    def snapshot_download(model_id: str, *, revision: str | None, **options: object) -> str:
        if model_id == "org/none":
            raise ValueError("not found\nand more")
        calls.append((model_id, revision, options))
        return str(tmp_path)

    (tmp_path / "model.safetensors").write_bytes(b"")
    fake = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "modelscope", fake)
    assert hub.resolve("modelscope:chatglm3-6b", revision="v1") == tmp_path
    [(name, revision, options)] = calls
    assert (name, revision) == ("ZhipuAI/chatglm3-6b", "v1")
    assert "*.bin" not in options["allow_patterns"]
    with pytest.raises(ModelNotFoundError, match=r"ValueError: not found\); check"):
        hub.resolve("modelscope:org/none")
