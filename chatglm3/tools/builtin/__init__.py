"""The tools that come with the package."""

from chatglm3.tools.builtin.calculator import calculator
from chatglm3.tools.builtin.local import convert_distance, current_time, random_number
from chatglm3.tools.builtin.shell import shell
from chatglm3.tools.builtin.web import get_weather, search_arxiv, web_search

HARMLESS = [
    calculator,
    get_weather,
    random_number,
    convert_distance,
    current_time,
    web_search,
    search_arxiv,
]
"""They compute, or look something up."""

ALL = {tool.name: tool for tool in [*HARMLESS, shell]}
