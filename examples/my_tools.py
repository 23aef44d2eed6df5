"""Tools in a file of their own: `Toolbox("examples/my_tools.py")`."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from chatglm3 import tool

PRICES = {"tea": 3.5, "coffee": 4.0, "茶": 3.5, "咖啡": 4.0}
orders: list[str] = []


@tool
def get_price(item: Annotated[str, "What is to be bought, for example tea"]) -> dict[str, float | str]:
    """Get the price of a drink."""
    if item not in PRICES:
        raise KeyError(f"there is no {item}; there are {', '.join(PRICES)}")
    return {"item": item, "euros": PRICES[item]}


@tool(needs_approval=True)
def place_order(
    item: Annotated[str, "What is to be bought"],
    count: Annotated[int, "How many"] = 1,
    size: Literal["small", "large"] = "small",
) -> str:
    """Order a drink."""
    orders.append(f"{count} {size} {item}")
    return f"ordered on {date.today()}: {orders[-1]}"
