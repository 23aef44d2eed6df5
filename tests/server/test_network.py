"""TLS, pages of other origins, and methods that nobody asked for."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chatglm3 import ChatGLM3
from chatglm3.errors import InvalidParameterError
from chatglm3.server import ApiKey, Settings
from chatglm3.server.run import Certificate
from tests.server.conftest import LiveServer
from tests.server.process import served

PAGE = "https://chat.example.org"


@pytest.fixture(scope="module")
def open_to_a_page(load_tiny: Callable[[], ChatGLM3]) -> Iterator[LiveServer]:
    settings = Settings(model_names=("tiny",), api_keys=(ApiKey("sk"),), cors_origins=(PAGE,))
    with LiveServer(load_tiny(), settings) as live:
        yield live


def test_a_page_may_ask_for_permission_without_a_key(open_to_a_page: LiveServer) -> None:
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-a"}
    for origin, status in ((PAGE, 200), ("https://evil.example.org", 400)):
        response = open_to_a_page.http.options("/v1/chat/completions", headers=asking | {"Origin": origin})
        assert response.status_code == status
        assert response.headers.get("Access-Control-Allow-Origin") == (PAGE if status == 200 else None)
    assert "authorization" in response.headers["Access-Control-Allow-Headers"]


def test_a_page_can_read_answers_and_refusals(open_to_a_page: LiveServer) -> None:
    for headers, status in (({"Authorization": "Bearer sk"}, 200), ({}, 401)):
        response = open_to_a_page.http.get("/v1/models", headers=headers | {"Origin": PAGE})
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert "X-Request-ID" in response.headers["Access-Control-Expose-Headers"]


def test_by_default_no_page_of_another_origin_may_call(server: LiveServer) -> None:
    response = server.http.get("/v1/models", headers={"Origin": PAGE})
    assert "Access-Control-Allow-Origin" not in response.headers
    assert server.http.options("/v1/chat/completions", headers={"Origin": PAGE}).status_code == 405


def test_origins_that_cannot_be_meant() -> None:
    for bad in ("", "example.org", f"{PAGE}/", "ftp://example.org"):
        with pytest.raises(InvalidParameterError, match="no origin"):
            Settings(cors_origins=(bad,))
    Settings(cors_origins=("*", "http://localhost:3000"))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("HEAD", "/v1/completions", "POST"),
        ("OPTIONS", "/v1/embeddings", "POST"),
    ],
)
def test_another_method_is_refused_with_those_that_are_taken(
    server: LiveServer, method: str, path: str, allowed: str
) -> None:
    response = server.http.request(method, path)
    assert (response.status_code, response.headers["Allow"]) == (405, allowed)
    if method != "HEAD":
        assert method in response.json()["error"]["message"]


def test_health_can_be_asked_for_without_its_body(server: LiveServer) -> None:
    for path in ("/health", "/health/ready"):
        response = server.http.head(path)
        assert (response.status_code, response.content) == (200, b"")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """One that this machine has signed for itself."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    for file, encryption in (
        ("key.pem", serialization.NoEncryption()),
        ("locked.pem", serialization.BestAvailableEncryption(b"secret")),
    ):
        data = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        (folder / file).write_bytes(data)
    return Certificate(str(folder / "cert.pem"), str(folder / "key.pem"))


def test_tls(tiny_folder: Path, certificate: Certificate) -> None:
    flags = ("--tls-cert", certificate.file, "--tls-key", certificate.key_file)
    with served(str(tiny_folder), *flags) as server:
        url = f"https://localhost:{server.port}"
        trusted = ssl.create_default_context(cafile=certificate.file)
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "stream": True}
        with httpx2.Client(base_url=url, verify=trusted, trust_env=False) as client:
            assert client.get("/health").status_code == 200
            assert client.post("/v1/chat/completions", json=body).text.endswith("data: [DONE]\n\n")
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"http://localhost:{server.port}/health", trust_env=False)


def test_a_key_with_a_password_is_refused_rather_than_asked_for(certificate: Certificate) -> None:
    locked = certificate.key_file.replace("key.pem", "locked.pem")
    with pytest.raises(InvalidParameterError, match="has a password"):
        Certificate(certificate.file, locked).check()
    with pytest.raises(InvalidParameterError, match="no certificate and its key"):
        Certificate(certificate.key_file, certificate.key_file).check()
    certificate.check()
