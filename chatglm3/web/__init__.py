"""Chat, tools and code interpreter in a browser, over a server that speaks OpenAI's API.

    the page (Gradio or Streamlit)   draws Steps, and knows nothing of models
      Users                          everybody's sessions; conversations and settings in SQLite
      Session                        one conversation: asks, runs tools and programs, yields events
        chatglm3.chat.loop.answer    calls and observations, the same loop as everywhere
          RemoteReplies -> Api       one reply of the model at a time, over HTTP

All of it but the page, in a program:

    host = Host(Api("http://127.0.0.1:8000/v1"), Toolbox("builtin"))
    users = Users(host, Store(None))                  # a path instead of None keeps conversations
    session = users.new("ada", "code")                # "chat", "tool" or "code"
    session.upload("numbers.csv", b"a,b\\n1,2\\n")      # announced with the next question
    for _ in session.ask("How many rows are there?", users.store.settings("ada")):
        draw(session.steps)                           # list[Step]: user, text, call
    if session.problem: ...                           # why it failed, with the remedy; session.again(...)
    if session.conversation.waiting: ...              # calls of own definitions: session.observe([results])
    for file in session.files(): session.fetch(file.path)

While the loop runs, other threads (callbacks of the page) may call `session.stop()`, and decide with
`session.approve(True)` whenever `session.approval` holds a call that wants to be approved. An answered
conversation can be changed: `session.again(settings)` regenerates; `session.ask(text, settings,
instead_of=step.message)` edits; `session.take_back(step.message)` returns a question to be rewritten (undo).
While it is answered these, and `session.choose_mode(mode)`, raise BusyError.
`export.to_json`, `to_markdown` and `export.read_file` write and read files; `users.add` takes what was read.
"""

from chatglm3.web.api import Api, ModelInfo
from chatglm3.web.conversation import MODES, Conversation, Mode, Step
from chatglm3.web.live import ApprovalWanted
from chatglm3.web.session import BusyError, Host, Session
from chatglm3.web.settings import Settings
from chatglm3.web.store import Entry, Store, default_path
from chatglm3.web.users import Users

__all__ = [
    "MODES",
    "Api",
    "ApprovalWanted",
    "BusyError",
    "Conversation",
    "Entry",
    "Host",
    "Mode",
    "ModelInfo",
    "Session",
    "Settings",
    "Step",
    "Store",
    "Users",
    "default_path",
]
