"""Functions become definitions that a small model can read, and checks that tell it what is wrong."""

from __future__ import annotations

import dataclasses
import json
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field

from chatglm3.errors import ToolError
from chatglm3.prompt import Message, render
from chatglm3.tools import tool
from tests.tiny import tiny_tokenizer


class Place(BaseModel):
    """Where it is."""

    title: str = Field(description="Its name")
    floors: list[int] = []


class Node(BaseModel):
    value: int
    children: list[Node] = []


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def properties(function: Any) -> dict[str, Any]:
    return tool(function).definition["parameters"]["properties"]


def test_the_definition_is_what_the_model_was_trained_on() -> None:
    @tool
    def get_weather(city: Annotated[str, "The city's name"], days: int = 1) -> str:
        """Get the weather."""
        return ""

    assert get_weather.definition == {
        "name": "get_weather",
        "description": "Get the weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name"},
                "days": {"type": "integer", "default": 1},
            },
            "required": ["city"],
        },
    }
    assert render([Message("user", "hello")], tiny_tokenizer(), tools=[get_weather.definition])


def google(city: str, days: int) -> None:
    """Forecast.

    Args:
        city: the place
        days: how many days
    """


def numpy(city: str, days: int) -> None:
    """Forecast.

    Parameters
    ----------
    city : str
        the place
    days : int
        how many days
    """


def sphinx(city: str, days: int) -> None:
    """Forecast.

    :param city: the place
    :param days: how many days
    """


@pytest.mark.parametrize("function", [google, numpy, sphinx])
def test_docstrings_of_every_style_describe_the_parameters(function: Any) -> None:
    assert tool(function).definition["description"] == "Forecast."
    assert {name: entry["description"] for name, entry in properties(function).items()} == {
        "city": "the place",
        "days": "how many days",
    }


def test_the_registration_style_of_the_demo() -> None:
    def random_number_generator(
        seed: Annotated[int, "The random seed", True],
        range: Annotated[tuple[int, int], "The range", True] = (0, 9),
        note: Annotated[str, "A note", False] = "",
        unit: Annotated[str, "A unit", False] = dataclasses.MISSING,  # type: ignore[assignment]
    ) -> int:
        """Draw a number."""
        return seed

    made = tool(random_number_generator)
    assert made.definition["parameters"]["required"] == ["seed", "range"]
    assert made.definition["parameters"]["properties"]["seed"] == {
        "type": "integer",
        "description": "The random seed",
    }
    assert made.validate({"seed": 1, "range": [2, 3]}) == {"seed": 1, "range": (2, 3)}


def test_a_parameter_that_only_the_function_needs_is_given_none() -> None:
    def f(city: Annotated[str, "A city", False]) -> None: ...

    assert tool(f).validate({}) == {"city": None}
    assert tool(f).definition["parameters"]["required"] == []
    assert tool(f).definition["parameters"]["properties"]["city"]["type"] == "string"


def test_types_are_flat_and_without_noise() -> None:
    def f(  # noqa: PLR0917
        unit: Literal["c", "f"],
        tags: Optional[list[str]] = None,  # noqa: UP045 - the old notation is what is tested
        limit: int | None = None,
        place: Place | None = None,
        point: Point | None = None,
        colour: Colour = Colour.RED,
        when: date | None = None,
        either: int | str = 1,
        size: Annotated[int, Field(ge=1, le=9), "How large"] = 1,
        anything: Any = None,
        untyped=None,  # type: ignore[no-untyped-def]
    ) -> None: ...

    found = properties(f)
    assert found["unit"] == {"type": "string", "enum": ["c", "f"]}
    assert found["tags"] == {"type": "array", "items": {"type": "string"}}
    assert found["limit"] == {"type": "integer"}
    assert found["place"] == {
        "type": "object",
        "description": "Where it is.",
        "properties": {
            "title": {"type": "string", "description": "Its name"},
            "floors": {"type": "array", "items": {"type": "integer"}, "default": []},
        },
        "required": ["title"],
    }
    assert found["point"]["properties"] == {"x": {"type": "number"}, "y": {"type": "number", "default": 0.0}}
    assert found["colour"] == {"type": "string", "enum": ["red", "blue"], "default": "red"}
    assert found["when"] == {"type": "string", "format": "date"}
    assert found["either"] == {"anyOf": [{"type": "integer"}, {"type": "string"}], "default": 1}
    assert found["size"] == {
        "type": "integer",
        "description": "How large",
        "default": 1,
        "maximum": 9,
        "minimum": 1,
    }
    assert found["anything"] == found["untyped"] == {}
    assert "$ref" not in json.dumps(found)


def test_a_type_that_contains_itself_keeps_one_definition() -> None:
    def f(tree: Node, other: Place) -> None: ...

    parameters = tool(f).definition["parameters"]
    assert list(parameters["$defs"]) == ["Node"]
    assert parameters["properties"]["tree"] == {"$ref": "#/$defs/Node"}
    assert parameters["$defs"]["Node"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    made = tool(f).validate({"tree": {"value": 1, "children": [{"value": 2}]}, "other": {"title": "a"}})
    assert made["tree"].children[0].value == 2


def test_arguments_arrive_as_the_types_that_the_function_declares() -> None:
    def f(place: Place, point: Point, colour: Colour, when: date, size: float = 1) -> None: ...

    made = tool(f).validate(
        {"place": {"title": "x"}, "point": {"x": "1"}, "colour": "blue", "when": "2024-02-29"}
    )
    assert made == {
        "place": Place(title="x"),
        "point": Point(1.0),
        "colour": Colour.BLUE,
        "when": date(2024, 2, 29),
    }


@pytest.mark.parametrize("name", ["copy", "json", "model_config", "_hidden", "schema", "self", "类"])
def test_any_python_name_can_be_a_parameter(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def f({name}: int): return {name}", scope)
    made = tool(scope["f"])
    assert made.definition["parameters"]["required"] == [name]
    assert made(**made.validate({name: 3})) == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "city is missing"),
        ({"city": "x", "day": 1}, "day is not a parameter"),
        ({"city": 3}, r"city: Input should be a valid string \(it is 3\)"),
        ({"city": "x", "days": "two"}, "days: Input should be a valid integer.*it is 'two'"),
        ({"city": "x", "unit": "k"}, "unit: Input should be 'c' or 'f'"),
        ({"city": "x", "places": [{"title": 1}]}, r"places\[0\].title: "),
        (
            {},
            r"are: city \(string\), days \(integer, optional\), unit \(one of 'c', 'f', optional\)",
        ),
    ],
)
def test_wrong_arguments_are_told_precisely(arguments: dict[str, Any], complaint: str) -> None:
    def f(
        city: str, days: int = 1, unit: Literal["c", "f"] = "c", places: list[Place] | None = None
    ) -> None: ...

    with pytest.raises(ValueError, match=complaint):
        tool(f).validate(arguments)


def test_the_callers_arguments_are_not_changed() -> None:
    @tool
    def f(items: list, options: dict) -> None:
        items.append(1)
        options["x"] = 1

    arguments: dict[str, Any] = {"items": [], "options": {}}
    f(**f.validate(arguments))
    assert arguments == {"items": [], "options": {}}


def test_defaults_are_the_functions_own() -> None:
    def f(stamp: object = object(), items: list[int] = [1]) -> object:  # noqa: B006
        return stamp, items

    made = tool(f)
    assert made.validate({}) == {}
    assert made(**made.validate({})) == f()


def test_a_docstring_of_no_style_is_the_description() -> None:
    def f(a: int) -> None:
        """:param: what
        :raises
        """

    assert ":param:" in tool(f).definition["description"]


class Opaque: ...


async def yields() -> Any:
    yield 1


def takes_args(*args: int) -> None: ...


def takes_kwargs(**options: int) -> None: ...


def takes_positional(a: int, /) -> None: ...


def takes_opaque(a: Opaque) -> None: ...


def takes_unknown(a: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (takes_args, r"'takes_args' has the parameter \*args.*write every parameter out"),
        (takes_kwargs, r"the parameter \*\*options"),
        (takes_positional, "the parameter a: "),
        (takes_opaque, "whose type JSON cannot express"),
        (takes_unknown, "'Nowhere' is not defined.*top level"),
        (lambda x: x, "a lambda has no name"),
        (Opaque, "made of a function"),
        (yields, "a function that returns its result"),
    ],
)
def test_functions_that_a_model_cannot_call(function: Any, complaint: str) -> None:
    with pytest.raises(ToolError, match=complaint):
        tool(function)


def test_names() -> None:
    def f() -> None:
        """Do."""

    assert tool(name="获取天气")(f).name == "获取天气"
    with pytest.raises(ToolError, match=r"cannot be called 'get weather'.*call it 'get_weather'"):
        tool(name="get weather")(f)
    with pytest.raises(ToolError, match="the code interpreter's"):
        tool(name="interpreter")(f)
    with pytest.raises(ToolError, match="timeout of 'f' is 0"):
        tool(timeout=0)(f)


def test_local_types_methods_and_partials() -> None:
    import functools

    class Size(BaseModel):
        metres: float

    class Shop:
        def sell(self, item: str, size: Size) -> str:
            """Sell something."""
            return f"{item} {size.metres}"

    assert properties(Shop().sell)["item"] == {"type": "string"}
    made = tool(Shop().sell)
    assert made(**made.validate({"item": "rope", "size": {"metres": 2}})) == "rope 2.0"

    def power(base: int, exponent: int) -> int:
        return base**exponent

    square = tool(name="square")(functools.partial(power, exponent=2))
    assert square(**square.validate({"base": 3})) == 9
