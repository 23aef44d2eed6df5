"""`chatglm3 web`: chat, tools and code interpreter in a browser."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import sys
import tempfile
from pathlib import Path

from chatglm3.cli.arguments import add_model
from chatglm3.errors import ChatGLM3Error, InvalidParameterError

ACCOUNTS_VARIABLE = "CHATGLM3_WEB_AUTH"

EPILOG = f"""\
The model is served in the same process, and the page talks to that server. With --api it talks to another
one, and loads no model itself.

Tools and programs run on the machine of the page, programs isolated. Conversations are kept on that machine,
for each browser apart, or for each account. Accounts come from --auth and from {ACCOUNTS_VARIABLE}
(separated by spaces); prefer the latter: other users of a machine can see a command line.

examples:
  chatglm3 web
  chatglm3 web THUDM/chatglm3-6b --quantize int4 --tools builtin,my_tools.py
  chatglm3 web --api http://127.0.0.1:8000/v1
  chatglm3 web --ui streamlit
  {ACCOUNTS_VARIABLE}=ada:secret chatglm3 web --host 0.0.0.0"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add_model(parser, default="nano")

    group = parser.add_argument_group("server")
    group.add_argument("--api", metavar="URL", help="talk to this OpenAI-compatible server; loads no model")
    group.add_argument("--api-key", metavar="KEY", help="its key")
    group.add_argument("--api-model", metavar="NAME", help="which of its models; default: the first")

    group = parser.add_argument_group("page")
    group.add_argument(
        "--ui", choices=["gradio", "streamlit"], default="gradio", help="what draws the page (gradio)"
    )
    group.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is all (127.0.0.1)")
    group.add_argument("--port", type=int, default=7860, help="0 takes a free one (7860)")
    group.add_argument(
        "--auth", action="append", default=[], metavar="NAME:PASSWORD", help="who may use it; repeatable"
    )
    group.add_argument(
        "--data", metavar="FILE", help="where conversations are kept; default: this system's place for it"
    )

    group = parser.add_argument_group("tools")
    group.add_argument(
        "--tools",
        metavar="NAMES",
        action="extend",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        help="what can be ticked in Tool: built-in names, my_tools.py, definitions in YAML or JSON (builtin)",
    )
    group.add_argument(
        "--mcp", metavar="SERVER", action="append", default=[], help="a command or a URL; repeatable"
    )
    group.add_argument(
        "--mcp-config",
        metavar="FILE",
        action="append",
        default=[],
        help="a JSON file with mcpServers; repeatable",
    )
    group.add_argument(
        "--unsafe-interpreter",
        action="store_true",
        help="run programs with your own rights where this machine cannot isolate them",
    )


def run(args: argparse.Namespace) -> int:
    """Serve the page until a signal ends it."""
    extra = "web" if args.ui == "gradio" else args.ui
    for package in ("fastapi", args.ui, "httpx"):
        if importlib.util.find_spec(package) is None:
            raise ChatGLM3Error(f"{package} is missing; install it with: pip install 'chatglm3[{extra}]'")
    from chatglm3.server.logs import configure as configure_logs
    from chatglm3.server.run import bind
    from chatglm3.tools import McpServer, Toolbox
    from chatglm3.web import Api, Host, Store, Users, default_path
    from chatglm3.web.run import is_loopback, serve_page, serving

    accounts = _accounts(args.auth)
    local = is_loopback(args.host)
    with contextlib.ExitStack() as stack:
        bound = stack.enter_context(bind(args.host, args.port))  # before minutes of loading
        configure_logs("text")
        if not local:
            _warn(args.host, accounts)
        sources = [*(args.tools or ["builtin"]), *map(McpServer.parse, args.mcp), *map(Path, args.mcp_config)]
        tools = stack.enter_context(Toolbox(*sources))
        url, key = args.api, args.api_key
        if url is None:
            from chatglm3.cli.arguments import load
            from chatglm3.cli.serve import default_names

            url, key = stack.enter_context(serving(load(args), default_names(args.model)[0]))
        api = Api(url, key, model=args.api_model)
        stack.callback(api.close)
        host = Host(api, tools, own_mcp=local, unsafe_interpreter=args.unsafe_interpreter)
        store = Store(Path(args.data).expanduser() if args.data else default_path())
        stack.callback(store.close)
        users = Users(host, store)
        stack.callback(users.close)
        if args.ui == "streamlit":
            from chatglm3.web import streamlit_app

            streamlit_app.serve_page(users, bound, accounts=accounts, only_loopback=local)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chatglm3-web-")))
            serve_page(users, bound, folder, accounts=accounts, only_loopback=local)
    return 0


def _accounts(given: list[str]) -> dict[str, str]:
    """Passwords by name, from the command line and the environment."""
    accounts = {}
    for account in [*given, *os.environ.get(ACCOUNTS_VARIABLE, "").split()]:
        if not (found := re.fullmatch(r"([^:]+):(.+)", account)):
            raise InvalidParameterError("an account is NAME:PASSWORD, and one of those given is not")
        accounts[found[1]] = found[2]
    return accounts


def _warn(host: str, accounts: dict[str, str]) -> None:
    """What it means that other machines can reach the page."""
    if not accounts:
        print(
            f"warning: everybody who can reach {host} can use this page, its tools and its interpreter; "
            "ask for a password with --auth",
            file=sys.stderr,
        )
    print("warning: the page is served without encryption; put a proxy with TLS in front", file=sys.stderr)
