"""An OpenAI-compatible server.

    gate -> a dialect's route (openai/...) -> Core.ask(Question) -> EngineThread -> engine
                    ^                                                    |
                    └───── Answers.parts() <── text, calls, reasons <────┘

`core.py` is what all dialects share, `answers.py` turns tokens into text and calls, `engine_thread.py` is the
crossing between event loop and engine, `gate.py` guards every route, and a dialect is a file of its own.
"""

from chatglm3.server.app import create_app
from chatglm3.server.keys import ApiKey
from chatglm3.server.settings import Settings

__all__ = ["ApiKey", "Settings", "create_app"]
