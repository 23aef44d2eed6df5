"""Pictures that tools make: kept as files, and drawn by terminals that are known to draw."""

from __future__ import annotations

import base64
import mimetypes
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from chatglm3.cli.arguments import describe, size
from chatglm3.tools import Image

_KITTY_CHUNK = 4096


class ImageFolder:
    """Where pictures are kept; the folder is made with the first one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, image: Image) -> str:
        """Write a picture to a new file, and return where it is, or why it is nowhere."""
        suffix = mimetypes.guess_extension(image.mime_type) or ".bin"
        name = f"{datetime.now():%Y%m%d-%H%M%S}"
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            number = 1
            while (file := self._path / f"{name}-{number}{suffix}").exists():
                number += 1
            file.write_bytes(image.data)
        except OSError as error:
            return f"the image cannot be kept: {describe(error)}"
        return f"image: {file} ({size(len(image.data))})"


def drawn(image: Image, environ: Mapping[str, str] = os.environ) -> str:
    """What to print so that the terminal draws a picture; nothing if it is not known to.

    kitty and Ghostty: https://sw.kovidgoyal.net/kitty/graphics-protocol;
    iTerm2 and WezTerm: https://iterm2.com/documentation-images.html.
    """
    terminal, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if "TMUX" in environ or terminal.startswith(("screen", "tmux")):
        return ""  # they keep a screen of their own, without pictures
    data = base64.b64encode(image.data).decode()
    if program in ("iTerm.app", "WezTerm"):
        return f"\x1b]1337;File=inline=1;size={len(image.data)}:{data}\a\n"
    if terminal in ("xterm-kitty", "xterm-ghostty") and image.mime_type == "image/png":
        chunks = [data[start : start + _KITTY_CHUNK] for start in range(0, len(data), _KITTY_CHUNK)]
        codes = []
        for number, chunk in enumerate(chunks, 1):
            first = "a=T,f=100,q=2," if number == 1 else ""  # show it, it is a PNG, say nothing to stdin
            codes.append(f"\x1b_G{first}m={int(number < len(chunks))};{chunk}\x1b\\")
        return "".join(codes) + "\n"
    return ""
