"""The interpreter as the model knows it: a tool, uploaded files, and the prompt it was trained with."""

from __future__ import annotations

import asyncio

from chatglm3.prompt import INTERPRETER
from chatglm3.tools import Image, Tool, ToolOutput
from chatglm3.tools.background import in_thread
from chatglm3.tools.interpreter.interpreter import Interpreter
from chatglm3.tools.interpreter.outputs import observation

SYSTEM_PROMPT = (
    "你是一位智能AI助手，你叫ChatGLM，你连接着一台电脑，但请注意不能联网。在使用Python解决任务时，你可以运行代码并得到结果，"
    "如果运行结果有错误，你需要尽可能对代码进行改进。你可以处理用户上传到电脑上的文件，文件默认存储路径是{workspace}/。"
)
"""The system message of the published code interpreter."""

_SPARE_SECONDS = 120.0  # to start, to interrupt, and to end what cannot be interrupted


def interpreter_tool(interpreter: Interpreter, *, timeout: float = 60.0) -> Tool:
    """What runs the model's programs, for Toolbox(interpreter=...). It does not close the interpreter.

    timeout: seconds for one program. The definition's description is the system prompt, for conversations
    that have none. Starts the interpreter; raises InterpreterError if there can be none.
    """

    async def run(code: str) -> ToolOutput:
        try:
            execution = await in_thread(lambda: interpreter.execute(code, timeout), "chatglm3-interpreter")
        except asyncio.CancelledError:
            interpreter.interrupt()
            raise
        images = tuple(Image(data) for data in execution.images)
        return ToolOutput(observation(execution) or "[No output]", images, execution.is_error)

    definition = {"name": INTERPRETER, "description": SYSTEM_PROMPT.format(workspace=interpreter.workspace)}
    return Tool(definition, run, timeout=timeout + _SPARE_SECONDS, source="the code interpreter")


def announce_upload(path: str, size: int) -> str:
    """The lines that tell the model of a file, to be put before the user's message.

    path: as Interpreter.upload() returned it; size: in bytes.
    """
    return f"#File: {path}\n#Size: {size}\n#File uploaded\n"
