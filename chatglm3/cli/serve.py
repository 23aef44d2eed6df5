"""`chatglm3 serve`: an OpenAI-compatible server."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm3.cli.arguments import add_model, kv_memory, parse_adapters, parse_size, use_threads
from chatglm3.errors import ChatGLM3Error, InvalidParameterError

if TYPE_CHECKING:
    from chatglm3.chat import ChatGLM3
    from chatglm3.server import ApiKey
    from chatglm3.server.run import Certificate
    from chatglm3.server.sentences import SentenceModel

KEYS_VARIABLE = "CHATGLM3_API_KEYS"

EPILOG = f"""\
Any client of OpenAI's API can use it: base URL http://HOST:PORT/v1, and an API key if you set one.
http://HOST:PORT/docs describes every route and field.

API keys come from --api-key, from a file with one a line, and from {KEYS_VARIABLE} (separated by spaces or
commas). Prefer the last two: other users of a machine can see a command line. With a key set, every route
but /health needs one. In the file, a key may be followed by limits of its own: KEY requests=60 tokens=20000

Each --adapter is a model of its own to the clients: its name is in /v1/models, and is given as model.

SIGTERM and Ctrl-C end it gently: running answers are finished, new requests get status 503.

examples:
  chatglm3 serve
  chatglm3 serve --adapter poet=./poet --adapter clerk=./clerk
  chatglm3 serve THUDM/chatglm3-6b --quantize int4 --host 0.0.0.0 --api-keys-file keys.txt
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"messages": [{{"role": "user", "content": "你好"}}]}}'"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add_model(parser, default="nano")
    parser.add_argument("--model", dest="named_model", metavar="MODEL", help="the same as MODEL")
    parser.add_argument(
        "--served-model-name",
        action="append",
        metavar="NAME",
        help="what clients may give as model; default: MODEL and its last part (repeatable)",
    )
    parser.add_argument(
        "--embedding-model",
        metavar="MODEL",
        help="a sentence-transformers model, by whose name /v1/embeddings gives its vectors",
    )

    group = parser.add_argument_group("network")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is all (127.0.0.1)")
    group.add_argument("--port", type=int, default=8000, help="0 takes a free one (8000)")
    group.add_argument("--api-key", action="append", default=[], metavar="KEY", help="repeatable")
    group.add_argument("--api-keys-file", metavar="FILE", help="one key a line; # begins a comment")
    group.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of https://HOST call the server from a browser; * for all (none; repeatable)",
    )
    group.add_argument("--tls-cert", metavar="FILE", help="speak TLS, with this certificate (PEM)")
    group.add_argument("--tls-key", metavar="FILE", help="its key, where the certificate's file lacks it")

    group = parser.add_argument_group("limits")
    group.add_argument("--max-sequences", type=int, default=64, metavar="N", help="answers at once (64)")
    group.add_argument("--max-queue", type=int, metavar="N", help="answers that may wait (256)")
    group.add_argument("--max-queue-tokens", type=int, metavar="N", help="prompt tokens of those (131072)")
    group.add_argument("--max-body", metavar="SIZE", help="largest request body (4MB)")
    group.add_argument(
        "--request-timeout", type=float, metavar="S", help="seconds for one answer, queue included (600)"
    )
    group.add_argument(
        "--drain-timeout", type=float, metavar="S", help="seconds that answers have left at the end (30)"
    )

    group.add_argument(
        "--requests-per-minute", type=int, metavar="N", help="of each key that has no limit of its own"
    )
    group.add_argument("--tokens-per-minute", type=int, metavar="N", help="the same, of prompts and answers")

    group = parser.add_argument_group("log")
    group.add_argument(
        "--log-format", choices=["text", "json"], default="text", help="json: an object a line"
    )
    group.add_argument("--log-prompts", action="store_true", help="log what clients ask (never by default)")


def run(args: argparse.Namespace) -> int:
    """Load the model and serve it until a signal ends it."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ChatGLM3Error(
            f"{error.name} is missing; install it with: pip install 'chatglm3[server]'"
        ) from None
    from chatglm3.server import Settings, create_app
    from chatglm3.server.logs import configure as configure_logs
    from chatglm3.server.run import bind, serve

    certificate = _certificate(args)
    if args.max_sequences < 1:
        raise InvalidParameterError(f"--max-sequences is {args.max_sequences}, but must be at least 1")
    args.model = args.named_model or args.model
    adapters = parse_adapters(args.adapter)
    cache_bytes = kv_memory(args)
    limits = {
        "max_queue": args.max_queue,
        "max_queue_tokens": args.max_queue_tokens,
        "max_body_bytes": None if args.max_body is None else parse_size("--max-body", args.max_body),
        "request_timeout": args.request_timeout,
        "drain_timeout": args.drain_timeout,
    }
    settings = Settings(
        model_names=tuple(args.served_model_name or default_names(args.model)),
        api_keys=api_keys(args.api_key, args.api_keys_file, args.requests_per_minute, args.tokens_per_minute),
        cors_origins=tuple(args.cors_origin),
        log_prompts=args.log_prompts,
        **{name: value for name, value in limits.items() if value is not None},
    )
    with bind(args.host, args.port) as bound:  # before minutes of loading
        configure_logs(args.log_format)
        glm = _load(args, cache_bytes, adapters)
        serve(create_app(glm, settings, _sentences(args.embedding_model, glm)), bound, certificate)
    return 0


def _load(args: argparse.Namespace, cache_bytes: int | None, adapters: Mapping[str, Path]) -> ChatGLM3:
    """The model and its adapters, with a cache that takes most of a GPU of its own."""
    from chatglm3.chat import ChatGLM3
    from chatglm3.loading import free_memory, load, load_adapters, make_engine

    use_threads(args)
    loaded = load(
        args.model, device=args.device, dtype=args.dtype, quantize=args.quantize, revision=args.revision
    )
    loaded_adapters = load_adapters(loaded, adapters)
    if cache_bytes is None and loaded.device.type == "cuda":
        cache_bytes = free_memory(loaded.device) * 4 // 5
    engine = make_engine(
        loaded.model,
        loaded.prefix,
        valid_vocab=loaded.tokenizer.vocab_size,
        cache_bytes=cache_bytes,
        kv_dtype=args.kv_dtype,
        speculate=args.speculate,
        max_sequences=args.max_sequences,
        adapters=loaded_adapters,
    )
    return ChatGLM3(loaded, engine)


def _sentences(name: str | None, glm: ChatGLM3) -> SentenceModel | None:
    """The model for embeddings, if one is named, on the same device."""
    from chatglm3.server.sentences import SentenceModel

    return SentenceModel(name, default_names(name), str(glm.loaded.device)) if name else None


def _certificate(args: argparse.Namespace) -> Certificate | None:
    """What TLS is spoken with. Raises InvalidParameterError or OSError for files that cannot be used."""
    from chatglm3.server.run import Certificate

    if args.tls_cert is None:
        if args.tls_key is not None:
            raise InvalidParameterError("--tls-key needs a certificate; give --tls-cert as well")
        return None
    certificate = Certificate(args.tls_cert, args.tls_key or args.tls_cert)
    certificate.check()
    return certificate


def default_names(model: str) -> list[str]:
    """The names of a model that was asked for as `model`: its last part first, which is what people type."""
    return list(
        dict.fromkeys([Path(model).resolve().name if Path(model).is_dir() else Path(model).name, model])
    )


def api_keys(
    given: Sequence[str],
    file: str | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> tuple[ApiKey, ...]:
    """The keys from the command line, the environment and a file.

    The limits are for keys without their own. Raises OSError for the file, and InvalidParameterError.
    """
    from chatglm3.server.keys import ApiKey, read_keys

    texts = [*given, *re.split(r"[\s,]+", os.environ.get(KEYS_VARIABLE, ""))]
    keys = [ApiKey(text, requests_per_minute, tokens_per_minute) for text in texts if text]
    if file is not None:
        keys += read_keys(Path(file), requests_per_minute, tokens_per_minute)
    if not keys and (requests_per_minute or tokens_per_minute):
        raise InvalidParameterError("limits a minute are those of API keys, and there are none; give keys")
    return tuple(dict.fromkeys(keys))
