"""`chatglm3 serve` as a process: it starts, answers, and ends when it is told to."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx2
import pytest

from chatglm3.cli import main
from chatglm3.cli.arguments import parse_size
from chatglm3.cli.serve import KEYS_VARIABLE, api_keys, default_names
from chatglm3.errors import InvalidParameterError
from chatglm3.server import ApiKey
from tests.server.process import served
from tests.tiny import write_tiny_checkpoint


def test_it_serves_until_sigterm_and_finishes_what_it_has_begun(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "tiny-model")
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 400, "stream": True}
    headers = {"Authorization": "Bearer sk-secret"}
    with served(str(folder), **{KEYS_VARIABLE: "sk-secret"}) as server:
        with httpx2.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60) as client:
            assert client.get("/v1/models").json()["data"][0]["id"] == "tiny-model"
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()
                assert next(lines).startswith("data: ")
                server.process.send_signal(signal.SIGTERM)
                assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert server.process.wait(timeout=30) == 0
    done = [line for line in server.log if line.get("path") == "/v1/chat/completions"]
    assert done[0]["status"] == 200
    assert done[0]["completion_tokens"] > 0
    assert "sk-secret" not in json.dumps(server.log)


def test_an_address_in_use_is_told_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    from chatglm3.server.run import bind

    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        assert main(["serve", "no-such-model", "--port", str(port)]) == 1
    error = capsys.readouterr().err
    assert error == f"error: Address already in use (127.0.0.1, port {port})\n"


def test_keys_come_from_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, "sk-2, sk-3")
    file = tmp_path / "keys"
    file.write_text("# of the team\nsk-4  # Anna\n\nsk-1\n", encoding="utf-8")
    assert [key.text for key in api_keys(["sk-1"], str(file))] == ["sk-1", "sk-2", "sk-3", "sk-4"]
    monkeypatch.delenv(KEYS_VARIABLE)
    assert api_keys([]) == ()
    file.write_text("# nobody\n", encoding="utf-8")
    with pytest.raises(InvalidParameterError, match="no key in it"):
        api_keys([], str(file))


def test_a_key_has_its_own_limits_or_those_of_all(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-1\nsk-2 tokens=500\nsk-3 requests=9 tokens=5 # Anna\n", encoding="utf-8")
    assert api_keys(["sk-0"], str(file), requests_per_minute=60) == (
        ApiKey("sk-0", 60),
        ApiKey("sk-1", 60),
        ApiKey("sk-2", 60, 500),
        ApiKey("sk-3", 9, 5),
    )
    for line in ("sk-secret requests", "sk-secret requests=-1", "sk-secret minutes=1", "sk-secret sk-2"):
        file.write_text(f"\n{line}\n", encoding="utf-8")
        with pytest.raises(InvalidParameterError, match="line 2") as caught:
            api_keys([], str(file))
        assert "sk-secret" not in str(caught.value)
    file.write_text("sk-1 requests=0\n", encoding="utf-8")
    with pytest.raises(InvalidParameterError, match="at least 1"):
        api_keys([], str(file))
    with pytest.raises(InvalidParameterError, match="there are none"):
        api_keys([], None, tokens_per_minute=100)


def test_names_and_sizes(tmp_path: Path) -> None:
    assert default_names("nano") == ["nano"]
    assert default_names("THUDM/chatglm3-6b") == ["chatglm3-6b", "THUDM/chatglm3-6b"]
    assert default_names(f"{tmp_path}/") == [tmp_path.name, f"{tmp_path}/"]
    sizes = [parse_size("--x", text) for text in ("512", "4MB", "1.5 GB", "2g", "8k")]
    assert sizes == [512, 4 * 2**20, 3 * 2**29, 2**31, 8192]
    with pytest.raises(InvalidParameterError, match="--max-body is 'big'"):
        parse_size("--max-body", "big")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--max-queue", "0"], "max_queue is 0"),
        (["--max-sequences", "0"], "--max-sequences is 0"),
        (["--cors-origin", "chat.example.org"], "'chat.example.org' is no origin"),
        (["--api-key", "a", "--requests-per-minute", "0"], "requests_per_minute of an API key is 0"),
        (["--tls-key", "key.pem"], "give --tls-cert as well"),
        (["--tls-cert", __file__], "no certificate and its key in PEM form"),
        (["--request-timeout", "-1"], "request_timeout is -1"),
        (["--kv-memory", "lots"], "--kv-memory is 'lots'"),
        (["--api-key", "a b\n"], "API key"),
    ],
)
def test_settings_that_cannot_be_meant(
    flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *flags]) == 2
    assert complaint in capsys.readouterr().err
