"""Tools that need nothing but this machine."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from chatglm3.errors import ToolError
from chatglm3.tools.function import tool

_METRES = {
    "mm": 0.001,
    "cm": 0.01,
    "m": 1.0,
    "km": 1000.0,
    "in": 0.0254,
    "ft": 0.3048,
    "yd": 0.9144,
    "mi": 1609.344,
    "nmi": 1852.0,
}
_UNITS = {
    **{unit: unit for unit in _METRES},
    **dict.fromkeys(("millimeter", "millimetre", "毫米"), "mm"),
    **dict.fromkeys(("centimeter", "centimetre", "厘米"), "cm"),
    **dict.fromkeys(("meter", "metre", "米"), "m"),
    **dict.fromkeys(("kilometer", "kilometre", "公里", "千米"), "km"),
    **dict.fromkeys(("inch", "inche", "英寸"), "in"),
    **dict.fromkeys(("foot", "feet", "英尺"), "ft"),
    **dict.fromkeys(("yard", "码"), "yd"),
    **dict.fromkeys(("mile", "英里"), "mi"),
    **dict.fromkeys(("nautical mile", "海里"), "nmi"),
}


@tool
def random_number(
    low: Annotated[int, "The smallest number that may come"] = 1,
    high: Annotated[int, "The largest number that may come"] = 100,
) -> int:
    """Draw a random whole number."""
    if low > high:
        raise ToolError(f"low is {low} and high is {high}; low must not be above high")
    return random.randint(low, high)


@tool
def convert_distance(
    value: Annotated[float, "The distance"],
    from_unit: Annotated[str, "The unit of the distance, such as km, mi, m, ft, 公里"],
    to_unit: Annotated[str, "The unit that is wanted"],
) -> str:
    """Convert a distance from one unit to another."""
    result = value * _METRES[_unit(from_unit)] / _METRES[_unit(to_unit)]
    return f"{value:g} {from_unit} = {result:.10g} {to_unit}"


def _unit(name: str) -> str:
    text = name.strip().lower()
    unit = _UNITS.get(text) or _UNITS.get(text.removesuffix("s"))
    if unit is None:
        raise ToolError(f"{name!r} is not a known unit of distance; known are {', '.join(_METRES)}")
    return unit


@tool
def current_time(
    timezone: Annotated[str | None, "An IANA name such as Asia/Shanghai; by default this machine's"] = None,
) -> str:
    """Tell the current date, weekday and time."""
    try:
        now = datetime.now(ZoneInfo(timezone)) if timezone else datetime.now().astimezone()
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ToolError(f"{timezone!r} is no time zone; write it as Asia/Shanghai or Europe/Paris") from None
    return f"{now:%Y-%m-%d %A %H:%M:%S %Z}"
