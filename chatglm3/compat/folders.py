"""Where the files of a name are."""

from __future__ import annotations

from pathlib import Path

from chatglm3 import hub


def find_folder(
    name: str | Path, *, revision: str | None = None, token: str | None = None, weights: bool = True
) -> Path:
    """The folder of a model: a path, a hub's id (downloaded where it has to be), or "nano".

    weights: whether the weights are wanted, or only the configuration and the tokenizer.
    A folder here need not be whole: as published, a tokenizer may come from one and the weights from another.
    """
    path = Path(name).expanduser()
    if str(name) not in hub.EMBEDDED and path.is_dir():
        return path
    return hub.resolve(name, revision=revision, token=token, weights=weights)
