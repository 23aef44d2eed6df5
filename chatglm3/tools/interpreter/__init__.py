"""The code interpreter: Python that a model writes, run in a box from which it cannot get out."""

from chatglm3.tools.interpreter.box.limits import Limits
from chatglm3.tools.interpreter.box.walls import Layer
from chatglm3.tools.interpreter.interpreter import File, Interpreter
from chatglm3.tools.interpreter.isolation import Isolation, best_isolation, isolations
from chatglm3.tools.interpreter.outputs import Execution, Output, observation

__all__ = [
    "Execution",
    "File",
    "Interpreter",
    "Isolation",
    "Layer",
    "Limits",
    "Output",
    "best_isolation",
    "isolations",
    "observation",
]
