"""Arithmetic for a model that is bad at it: an expression is parsed and walked, never run."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Annotated, Any

from chatglm3.errors import ToolError
from chatglm3.tools.function import tool

Number = int | float

_MAX_BITS = 10_000  # about 3000 digits: more than anybody reads, and computed in no time
_MAX_LENGTH = 500
_SPELLINGS = str.maketrans({"×": "*", "÷": "/", "−": "-", "（": "(", "）": ")", "，": ",", "^": "**"})

_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
_MATH = """acos asin atan atan2 ceil cos cosh degrees exp floor gcd hypot lcm log log10 log2 radians sin sinh
sqrt tan tanh"""


def _round(number: Number, digits: int = 0) -> Number:
    if abs(digits) > 300:  # rounding an integer computes 10 ** digits
        raise ToolError("round takes at most 300 digits")
    return round(number, digits) if digits else round(number)


_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "round": _round,
    **{name: getattr(math, name) for name in _MATH.split()},
}


@tool
def calculator(expression: Annotated[str, "For example (3 + 4) * 2 ** 10 / sqrt(2)"]) -> str:
    """Calculate the value of an arithmetic expression."""
    if len(expression) > _MAX_LENGTH:
        raise ToolError(f"the expression has {len(expression)} characters; at most {_MAX_LENGTH} are allowed")
    try:
        tree = ast.parse(expression.strip().translate(_SPELLINGS), mode="eval")
        return _written(_value(tree.body))
    except ToolError:
        raise
    except SyntaxError as error:
        raise ToolError(f"{expression!r} is not an expression: {error.msg}") from None
    except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
        raise ToolError(f"{expression!r} has no value: {error}") from None


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _OPERATORS:
            return _bounded(_OPERATORS[type(kind)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id="factorial"), args=[argument], keywords=[]):
            return _factorial(_value(argument))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*map(_value, arguments)))
    raise ToolError(
        f"{ast.unparse(node)[:80]!r} is not allowed; there are numbers, + - * / // % **, pi, e, tau, "
        f"factorial, {', '.join(_FUNCTIONS)}"
    )


def _bounded(number: Number) -> Number:
    if isinstance(number, int) and number.bit_length() > _MAX_BITS:
        raise ToolError("the result has more than 3000 digits")
    return number


def _power(base: Number, exponent: Number) -> Number:
    whole = isinstance(base, int) and isinstance(exponent, int)
    # |base| < 2 ** bit_length bounds the result before it is computed.
    if whole and abs(base) > 1 and int(base).bit_length() * abs(exponent) > _MAX_BITS:
        raise ToolError(f"a power with the exponent {str(exponent)[:20]} is too large to be computed")
    result = base**exponent
    if isinstance(result, complex):
        raise ToolError("a fractional power of a negative number is not a real number")
    return result


def _factorial(number: Number) -> int:
    if not isinstance(number, int) or not 0 <= number <= 1000:
        raise ToolError("factorial takes an integer from 0 to 1000")
    return math.factorial(number)


def _written(number: Number) -> str:
    """Twelve significant digits, so that 0.1 + 0.2 is 0.3."""
    return str(number) if isinstance(number, int) else f"{number:.12g}"
