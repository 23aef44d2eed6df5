"""The code interpreter: Python that a model writes, run in a box from which it cannot get out."""

from chatglm3.tools.interpreter.box.limits import Limits
from chatglm3.tools.interpreter.box.walls import Layer
from chatglm3.tools.interpreter.interpreter import File, Interpreter
from chatglm3.tools.interpreter.isolation import Isolation, best_isolation, isolations
from chatglm3.tools.interpreter.outputs import Execution, Output, observation
from chatglm3.tools.interpreter.tool import SYSTEM_PROMPT, announce_upload, interpreter_tool

__all__ = [
    "SYSTEM_PROMPT",
    "Execution",
    "File",
    "Interpreter",
    "Isolation",
    "Layer",
    "Limits",
    "Output",
    "announce_upload",
    "best_isolation",
    "interpreter_tool",
    "isolations",
    "observation",
]
