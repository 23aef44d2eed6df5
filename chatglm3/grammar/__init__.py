"""What a reply has to be, token by token: JSON by a schema, calls of tools by theirs."""

from chatglm3.grammar.compiler import Constraint, Grammar, GrammarCompiler
from chatglm3.grammar.literals import Schema
from chatglm3.grammar.reply import JSON_OBJECT, reply_form

__all__ = ["JSON_OBJECT", "Constraint", "Grammar", "GrammarCompiler", "Schema", "reply_form"]
