"""Which adapter answers which request."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from chatglm3.adapters import Adapter, Prefix
from chatglm3.errors import InvalidParameterError

AdapterTable = Mapping[str | None, Adapter | None]
"""What answers, by the adapter that a request names; None: the model alone."""


def adapter_table(
    prefix: Prefix | None,
    named: Mapping[str, Adapter],
    default: str | None,
    device: torch.device,
    dtype: torch.dtype,
) -> AdapterTable:
    """The table of an engine whose model is on `device` in `dtype`, and may have a prefix of its own.

    default: what answers requests that name no adapter. Raises InvalidParameterError.
    """
    if prefix is not None and named:
        raise InvalidParameterError(
            "the model has a P-Tuning prefix of its own, and adapters are for models without; load its base "
            "model, and the prefix as an adapter beside the others"
        )
    if default is not None and default not in named:
        raise InvalidParameterError(f"default_adapter is {default!r}, which is none of {', '.join(named)}")
    table: dict[str | None, Adapter | None] = {None: prefix}
    table.update(named)
    table[None] = prefix if default is None else named[default]
    moved = {a: a.to(device, dtype) if isinstance(a, Prefix) else a for a in table.values()}
    return {name: moved[adapter] for name, adapter in table.items()}


def prefix_length(adapter: Adapter | None) -> int:
    """Cache entries that an adapter takes in each of its sequences."""
    return adapter.length if isinstance(adapter, Prefix) else 0


def check_adapter(name: str | None, table: AdapterTable) -> None:
    """Raise InvalidParameterError unless a request may name this adapter."""
    if name in table:
        return
    known = ", ".join(repr(other) for other in table if other is not None)
    raise InvalidParameterError(
        f"adapter is {name!r}, but there is {known}" if known else f"adapter is {name!r}, but none is loaded"
    )
