"""From a model's name to a local folder that holds it, whole.

| Name | Leads to |
|---|---|
| `nano` | the small model that comes inside this package |
| a path | that folder |
| `chatglm3-6b`, `chatglm3-6b-base`, `chatglm3-6b-32k` | the published models, on Hugging Face |
| `ORG/NAME` | a model on Hugging Face (`HF_ENDPOINT`: a mirror, `HF_HUB_OFFLINE=1`: no network) |
| `modelscope:ORG/NAME` | a model on ModelScope (needs `pip install chatglm3[modelscope]`) |

A folder beats an id of the same spelling; only `nano` is always the embedded one (`./nano` is a folder).
Downloads land in the cache of each hub's own library, which shows progress, resumes what was cut, and answers
without the network when all files are there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm3.errors import ModelNotFoundError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

EMBEDDED = {"nano": Path(__file__).parent / "models" / "nano"}

_SHORT_NAMES = ("chatglm3-6b", "chatglm3-6b-base", "chatglm3-6b-32k")
_HUGGING_FACE_ORG, _MODELSCOPE_ORG, _MODELSCOPE_PREFIX = "zai-org", "ZhipuAI", "modelscope:"

_METADATA = ["config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json"]
_SAFETENSORS = ["*.safetensors", "*.safetensors.index.json"]
_PICKLES = ["*.bin", "*.bin.index.json"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    weights: bool = True,
) -> Path:
    """The folder of a model, downloaded first where it has to be. Loading it checks whether it is whole.

    revision: a branch, tag or commit on the hub; None is the newest.
    token: for private and gated models; None takes the one of `hf auth login` or `HF_TOKEN`.
    offline: use only what has been downloaded before.
    weights: False downloads configuration and tokenizer only.

    Raises ModelNotFoundError where the name leads nowhere, with the reason and the remedy.
    """
    spelled = str(name)
    if spelled in EMBEDDED:
        return EMBEDDED[spelled]
    if spelled.startswith(_MODELSCOPE_PREFIX):
        return _from_modelscope(spelled.removeprefix(_MODELSCOPE_PREFIX), revision, token, offline, weights)
    path = Path(spelled).expanduser()
    if spelled and path.is_dir():
        return path
    if path.is_file():
        raise ModelNotFoundError(f"{path} is a file; give the folder that holds it: {path.parent}")
    hub_id = f"{_HUGGING_FACE_ORG}/{spelled}" if spelled in _SHORT_NAMES else spelled
    if not _HUB_ID.fullmatch(hub_id) or hub_id.startswith("."):
        raise ModelNotFoundError(
            f"there is no folder {spelled!r}, and it is no name of a model{_suggestion(path)}; "
            f"a model is a folder, 'nano', {', '.join(map(repr, _SHORT_NAMES))}, or ORG/NAME on Hugging Face"
        )
    return _from_hugging_face(hub_id, revision, token, offline, weights)


def _suggestion(path: Path) -> str:
    """Names near to a mistyped one, from its folder and from the names known here."""
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, cutoff=0.75)
    near = [str(path.with_name(name)) for name in near]
    near += difflib.get_close_matches(str(path), [*EMBEDDED, *_SHORT_NAMES], cutoff=0.75)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _fetch(download: Callable[[list[str]], str], weights: bool) -> Path:
    """Download by file patterns: the pickles of a repository only where it has no safetensors.

    Two calls and no listing, so that the same holds offline, where only the cache is there to be asked.
    """
    if not weights:
        return Path(download(_METADATA))
    folder = Path(download(_METADATA + _SAFETENSORS))
    if not any(folder.glob("*.safetensors")):
        folder = Path(download(_METADATA + _PICKLES))
    return folder


def _from_hugging_face(
    name: str, revision: str | None, token: str | None, offline: bool, weights: bool
) -> Path:
    import huggingface_hub
    from huggingface_hub import constants, errors

    def download(patterns: list[str]) -> str:
        return huggingface_hub.snapshot_download(
            name, revision=revision, token=token, local_files_only=offline, allow_patterns=patterns,
            ignore_patterns=["*/*"],
        )  # fmt: skip

    page = f"{constants.ENDPOINT}/{name}"
    try:
        return _fetch(download, weights)
    except errors.GatedRepoError:
        problem = f"its owner asks for consent: accept at {page}, then `hf auth login` or set HF_TOKEN"
    except errors.RevisionNotFoundError:
        problem = f"it has no revision {revision!r}; the ones it has are at {page}/tree/main"
    except errors.RepositoryNotFoundError as error:
        known = _suggestion(Path(name))
        if error.response.status_code == 404:
            problem = f"{constants.ENDPOINT} has no such model{known}; check the spelling"
        else:
            problem = (
                f"it does not exist or is private{known}; for a private one `hf auth login` or set HF_TOKEN"
            )
    except errors.HFValidationError as error:
        problem = f"this is no valid name ({error})"
    except errors.LocalEntryNotFoundError as error:
        if offline or constants.HF_HUB_OFFLINE:
            problem = (
                "it is not, or not wholly, in the cache, and offline mode forbids the network; "
                f"unset HF_HUB_OFFLINE, or give a folder that holds it (cache: {constants.HF_HUB_CACHE})"
            )
        elif isinstance(error.__cause__, errors.HfHubHTTPError):
            problem = _status_problem(error.__cause__)
        else:
            problem = (
                f"{constants.ENDPOINT} cannot be reached; check the network, name a mirror in HF_ENDPOINT, "
                "or try 'nano', which needs none"
            )
    except errors.HfHubHTTPError as error:
        problem = _status_problem(error)
    except Exception as error:
        # The library has changed its HTTP client twice; each raises errors of its own for a lost connection.
        problem = (
            f"the download broke off ({type(error).__name__}: {_first_line(error)}); run it again to resume"
        )
    raise ModelNotFoundError(f"{name}: {problem}")


def _status_problem(error: HfHubHTTPError) -> str:
    status, site = error.response.status_code, error.response.url
    if status in (401, 403):
        return f"{site} refused the token ({status}); `hf auth login` again or mend HF_TOKEN"
    return f"{site} answered {status}; try again later, or name a mirror in HF_ENDPOINT"


def _from_modelscope(
    name: str, revision: str | None, token: str | None, offline: bool, weights: bool
) -> Path:
    if name in _SHORT_NAMES:
        name = f"{_MODELSCOPE_ORG}/{name}"
    if not _HUB_ID.fullmatch(name):
        raise ModelNotFoundError(f"{name!r} is no ModelScope id; write {_MODELSCOPE_PREFIX}ORG/NAME")
    try:
        from modelscope import snapshot_download
    except ImportError:
        raise ModelNotFoundError(
            f"{_MODELSCOPE_PREFIX}{name} needs ModelScope's library: pip install 'chatglm3[modelscope]'"
        ) from None

    def download(patterns: list[str]) -> str:
        login = {} if token is None else {"token": token}
        folder: str = snapshot_download(
            name, revision=revision, local_files_only=offline, allow_patterns=patterns, **login
        )
        return folder

    try:
        return _fetch(download, weights)
    except Exception as error:
        # Its errors share no base class over the versions in use.
        raise ModelNotFoundError(
            f"{name} cannot be had from ModelScope ({type(error).__name__}: {_first_line(error)}); check the "
            "spelling, the revision and the network"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
