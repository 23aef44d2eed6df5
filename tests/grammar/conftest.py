from pathlib import Path

import pytest

import chatglm3
from chatglm3.grammar import GrammarCompiler
from chatglm3.tokenizer import Tokenizer
from tests.grammar.walk import tiny_compiler


@pytest.fixture(params=["tiny", "nano", "published"], scope="session")
def tools(request: pytest.FixtureRequest) -> tuple[Tokenizer, GrammarCompiler]:
    """A tokenizer and its compiler."""
    if request.param == "tiny":
        return tiny_compiler()
    nano = Path(chatglm3.__file__).parent / "models" / "nano"
    tokenizer = Tokenizer(nano if request.param == "nano" else request.getfixturevalue("fixtures_dir"))
    return tokenizer, GrammarCompiler(tokenizer)
