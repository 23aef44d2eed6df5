"""Commands on this machine, with the rights of the person who runs the program: offered only by name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Annotated

from chatglm3.tools.function import tool

_MAX_BYTES = 200_000


@tool(needs_approval=True)
async def shell(command: Annotated[str, "The command, for /bin/sh"]) -> str:
    """Run a shell command on the user's machine and return what it prints."""
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = bytearray()
    reading = asyncio.ensure_future(_read(process.stdout, output))
    try:
        # Not process.wait(): that waits for everybody who holds the pipe, background processes included.
        while process.returncode is None:
            await asyncio.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the command, or what it left behind
        await asyncio.wait([reading], timeout=1.0)
        reading.cancel()
    text = output[:_MAX_BYTES].decode(errors="replace")
    if len(output) > _MAX_BYTES:
        text += f"\n[cut here: {_MAX_BYTES} bytes are shown]"
    return text if process.returncode == 0 else f"{text}\n[exit code {process.returncode}]".strip()


async def _read(stream: asyncio.StreamReader, output: bytearray) -> None:
    """Keep the first bytes and throw the others away, so that the command is never blocked."""
    while data := await stream.read(65536):
        if len(output) <= _MAX_BYTES:
            output += data
