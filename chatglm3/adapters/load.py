"""From a folder to an adapter, in whichever of the published forms it is."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from chatglm3.adapters.peft import CONFIG_FILE, read_peft
from chatglm3.adapters.stored import StoredLora
from chatglm3.checkpoint import base_fingerprint, load_prefix
from chatglm3.config import ModelConfig
from chatglm3.errors import CheckpointError
from chatglm3.prefix import Prefix

BASE_FILE = "base.json"
"""Beside an adapter, or a quantized copy: name and fingerprint of the model that it was made from."""


def read_adapter(path: str | Path, base: str | Path, config: ModelConfig) -> StoredLora | Prefix:
    """The adapter in a folder or a file, for the model in the folder `base`, whose numbers are `config`.

    A folder is peft's (LoRA or prefix tuning), or one of the published P-Tuning v2: a config.json with
    pre_seq_len, and weights that hold `prefix_encoder`. A file is what the published LoRA scripts saved, with
    an adapter_config.json beside it. Raises CheckpointError where it is none of them, damaged, or made for
    another model.
    """
    path = Path(path).expanduser()
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise CheckpointError(f"there is no adapter {str(path)!r}; give the folder that holds {CONFIG_FILE}")
    check_base(folder, Path(base))
    if path.is_file() or (folder / CONFIG_FILE).exists() or any(folder.glob("*.pt")):
        return read_peft(path, config)
    if (folder / "config.json").exists():
        return _published_prefix(folder, config)
    raise CheckpointError(
        f"{folder} is no adapter: it holds neither {CONFIG_FILE} (peft) nor config.json (P-Tuning v2)"
    )


def check_base(adapter: Path, base: Path) -> None:
    """Raise CheckpointError if the adapter's base.json names another model than the one in `base`.

    A quantized copy answers for the model that it was made from. Without base.json shapes alone are checked.
    """
    wanted = _read_base(adapter)
    if wanted is None:
        return
    made_from = _read_base(base) or {}
    if wanted["fingerprint"] in (made_from.get("fingerprint"), base_fingerprint(base)):
        return
    raise CheckpointError(
        f"the adapter {adapter} was trained on {wanted['base']}, and {base} holds other weights; load "
        f"{wanted['base']}, or train the adapter on this model. If you know that they belong together, as "
        f"with a copy in another dtype, remove {adapter / BASE_FILE}"
    )


def write_base(folder: Path, base: str | Path, source: Path) -> None:
    """Note in `folder` that it was made from the model in `source`, which is known as `base`."""
    note = {"base": str(base), "fingerprint": base_fingerprint(source)}
    text = json.dumps(note, indent=2, ensure_ascii=False) + "\n"
    (folder / BASE_FILE).write_text(text, encoding="utf-8")


def _read_base(folder: Path) -> dict[str, str] | None:
    path = folder / BASE_FILE
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return {"base": str(note["base"]), "fingerprint": str(note["fingerprint"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f'{path} is damaged; it holds {{"base": NAME, "fingerprint": SHA-256}}. Remove it to do without '
            "the check"
        ) from None


def _published_prefix(folder: Path, config: ModelConfig) -> Prefix:
    prefix = load_prefix(folder, dtype=torch.float32)
    if prefix is None:
        raise CheckpointError(
            f"{folder} is a whole model, not an adapter: its config.json has no pre_seq_len; load it as one"
        )
    wanted = (config.num_layers, prefix.length, config.num_kv_heads, config.head_dim)
    if prefix.keys.shape != wanted:
        raise CheckpointError(
            f"{folder}: the prefix's keys are {list(prefix.keys.shape)}, and this network's would be "
            f"{list(wanted)}; was it trained for another model?"
        )
    return prefix
