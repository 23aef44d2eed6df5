"""A conversation that is being held: it asks the server, runs the tools, and has a kernel of its own."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from chatglm3.chat import Done, Event, Unfinished
from chatglm3.chat.loop import answer
from chatglm3.errors import ChatGLM3Error, ServerError, ToolError
from chatglm3.prompt import INTERPRETER, Message, ToolCall
from chatglm3.tools import McpServer, Tool, Toolbox
from chatglm3.web.api import Api, StoppedError
from chatglm3.web.conversation import Conversation, Detail, Mode, Step, split_announcements
from chatglm3.web.live import ApprovalWanted, Begun, LiveSteps
from chatglm3.web.replies import RemoteReplies
from chatglm3.web.settings import Settings, read_definitions

if TYPE_CHECKING:
    from chatglm3.tools.interpreter import File, Interpreter

log = logging.getLogger(__name__)

MAX_ROUNDS = 8
Progress: TypeAlias = "Begun | Event | ApprovalWanted"


class BusyError(ServerError):
    """The conversation cannot be changed, because it is being answered."""

    def __init__(self) -> None:
        super().__init__("this conversation is being answered in another window; wait, or stop it there")


@dataclass(frozen=True)
class Host:
    """What all conversations of a page share."""

    api: Api
    tools: Toolbox = field(default_factory=Toolbox)
    """What may be ticked in Tool."""
    own_mcp: bool = False
    """Whether people may add MCP servers: such a server can be a command, which runs on this machine."""
    unsafe_interpreter: bool = False
    """Run programs with the page's own rights where this machine cannot isolate them."""


class _Run:
    """An answer under way, between the thread that makes it and the one that follows it."""

    def __init__(self) -> None:
        self.arrivals: queue.SimpleQueue[Event | ApprovalWanted | ChatGLM3Error | None] = queue.SimpleQueue()
        self.decisions: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.live = LiveSteps()
        self.unfinished = Unfinished()
        self.replies: RemoteReplies | None = None
        self.is_stopped = False

    def stop(self) -> None:
        """Let go of whoever follows at once; whoever makes the answer ends as soon as it can."""
        self.is_stopped = True
        self.arrivals.put(None)
        self.decisions.put(False)
        if self.replies is not None:
            self.replies.stop()


class Session:
    """A conversation, and what its answers need.

    `ask`, `again` and `observe` answer: they yield events, after each of which `steps` has something new to
    draw. They end when the answer does, is stopped, or fails (`problem` says why); what was said until then
    is kept. Closing the iterator stops the answer. All else may be called from other threads meanwhile; what
    changes the conversation raises BusyError then.

    save: called with the conversation whenever it should be kept.
    """

    def __init__(self, host: Host, conversation: Conversation, save: Callable[[Conversation], None]) -> None:
        self.conversation = conversation
        self.problem: ChatGLM3Error | None = None
        """Why the last answer failed."""
        self.approval: ToolCall | None = None
        """The call that waits for `approve`."""
        self.uploads = ""
        """What the next question begins with, so that the model knows of new files."""
        self.observed: list[str] = []
        """Results that the person has given so far, while several calls wait for one."""
        self.used = time.monotonic()
        """When somebody last did something here."""
        self._host = host
        self._save = save
        self._changing = threading.Lock()
        """Held while the conversation is changed without an answer, and to begin one."""
        self._run: _Run | None = None
        self._allowed: set[str] = set()
        self._interpreter: Interpreter | None = None
        self._toolbox: tuple[Settings, Toolbox] | None = None

    @property
    def is_running(self) -> bool:
        """Whether an answer is being made."""
        return self._run is not None

    @property
    def steps(self) -> list[Step]:
        """What there is to draw, the answer under way included."""
        run = self._run
        return [*self.conversation.steps, *(run.live.steps if run else ())]

    def ask(self, question: str, settings: Settings, *, instead_of: int | None = None) -> Iterator[Progress]:
        """Answer a question; instead_of: the message of an earlier one, which goes with all after it."""

        def add() -> None:
            if instead_of is not None:
                self._rewind(instead_of)
            text, self.uploads = self.uploads + question, ""
            self.conversation.set_messages([*self.conversation.messages, Message("user", text)])

        return self._answer(add, settings)

    def again(self, settings: Settings) -> Iterator[Progress]:
        """Answer the last question anew."""
        return self._answer(self.conversation.drop_answer, settings)

    def observe(self, results: Sequence[str], settings: Settings) -> Iterator[Progress]:
        """Go on with the results of the calls in `conversation.waiting`, which the person gives."""
        return self._answer(lambda: self.conversation.observe(results), settings)

    def take_back(self, message: int) -> str:
        """Take back the question before or at `message` and all that follows; returns what was written.

        What announced its files goes with the next question. Raises InvalidMessageError, BusyError.
        """
        with self._unanswered():
            question = self._rewind(message)
            self._save(self.conversation)
            return question

    def choose_mode(self, mode: Mode) -> None:
        """Go on in a mode. Raises BusyError."""
        with self._unanswered():
            self.conversation.mode = mode
            if self.conversation.messages:
                self._save(self.conversation)

    def stop(self) -> None:
        """End the answer under way: model, tools and program."""
        if (run := self._run) is not None:
            run.stop()
            if self._interpreter is not None:
                self._interpreter.interrupt()

    def approve(self, allowed: bool, *, always: bool = False) -> None:
        """Decide about the call in `approval`; always: also about later ones of that tool.

        A second decision about the same call (a double click) decides nothing.
        """
        call, self.approval = self.approval, None
        if call is None or self._run is None:
            return
        if allowed and always:
            self._allowed.add(call.name)
        self._run.decisions.put(allowed)

    def upload(self, name: str, data: bytes) -> str:
        """Give the interpreter a file; the model is told with the next question. Raises InterpreterError."""
        from chatglm3.tools.interpreter import announce_upload

        self.used = time.monotonic()
        path = self._started_interpreter().upload(name, data)
        self.uploads += announce_upload(path, len(data))
        return path

    def files(self) -> list[File]:
        """The files that the interpreter has; none, if it does not run."""
        return [] if self._interpreter is None else self._interpreter.files()

    def fetch(self, path: str) -> bytes:
        """One of them. Raises InterpreterError."""
        return self._started_interpreter().fetch(path)

    def forget(self) -> None:
        """Close, and keep nothing from now on."""
        self._save = lambda _: None
        self.close()

    def close(self) -> None:
        """Stop, and end the kernel with its files."""
        self.stop()
        if self._toolbox is not None:
            self._toolbox[1].close()
        if self._interpreter is not None:
            self._interpreter.close()
        self._toolbox = self._interpreter = None

    def _answer(self, change: Callable[[], None], settings: Settings) -> Iterator[Progress]:
        """Change the conversation and answer it."""
        with self._unanswered():
            self._run = run = _Run()  # from here on it can be stopped
        try:
            self.problem, self.approval, self.observed = None, None, []
            self.used = time.monotonic()
            change()
            self._save(self.conversation)
            yield from self._follow(run, settings)
        finally:
            self.approval = None
            self.used = time.monotonic()
            try:
                self._save(self.conversation)
            finally:
                self._run = None

    @contextmanager
    def _unanswered(self) -> Iterator[None]:
        """No answer is under way, and none begins meanwhile. Raises BusyError."""
        with self._changing:
            if self._run is not None:
                raise BusyError
            yield

    def _rewind(self, message: int) -> str:
        announcements, question = split_announcements(self.conversation.rewind(message))
        self.uploads = announcements + self.uploads
        return question

    def _follow(self, run: _Run, settings: Settings) -> Iterator[Progress]:
        """The events of an answer, which another thread makes: so stopping need not wait for it."""
        threading.Thread(target=self._work, args=(run, settings), name="chatglm3-answer", daemon=True).start()
        is_done = False
        try:
            yield Begun()
            while (arrival := run.arrivals.get()) is not None:
                match arrival:
                    case ChatGLM3Error():
                        self.problem = arrival
                        continue
                    case ApprovalWanted():
                        self.approval = arrival.call
                    case Done():
                        is_done = True
                        self._take(run, arrival)
                    case _:
                        self.approval = None
                        run.live.add(arrival)
                        run.unfinished.add(arrival)
                yield arrival
        finally:
            if not is_done:
                self.stop()
                self._keep(run)

    def _work(self, run: _Run, settings: Settings) -> None:
        """Make an answer and hand out its events."""

        def approve(call: ToolCall) -> bool:
            if call.name in self._allowed:
                return True
            run.arrivals.put(ApprovalWanted(call))
            return run.decisions.get()

        try:
            started = time.perf_counter()
            toolbox = self._tools(settings)
            given, definitions = self._told(settings, toolbox)
            replies = run.replies = RemoteReplies(self._host.api, definitions, settings.sampling)
            if run.is_stopped:
                return
            prompt = replies.prepare(given)
            events = answer(
                replies, given, prompt, toolbox, max_rounds=MAX_ROUNDS, approve=approve, started=started
            )
            with closing(events):  # type: ignore[type-var]
                for event in events:
                    run.arrivals.put(event)
                    if run.is_stopped:
                        return
        except StoppedError:
            pass
        except ChatGLM3Error as error:
            run.arrivals.put(error)
        except Exception as error:
            log.exception("an answer failed")
            text = f"the page made a mistake ({type(error).__name__}: {error}); its log says more"
            run.arrivals.put(ServerError(text))
        finally:
            run.arrivals.put(None)

    def _told(self, settings: Settings, toolbox: Toolbox) -> tuple[list[Message], list[dict[str, object]]]:
        """The conversation as the model is to see it, and the definitions of what it may call."""
        system, definitions = settings.system.strip(), list(toolbox.definitions)
        if toolbox.interpreter is not None:
            system = str(toolbox.interpreter.definition["description"])
            parameters = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
            definitions.append({"name": INTERPRETER, "description": system, "parameters": parameters})
        messages = list(self.conversation.messages)
        return [Message("system", system), *messages] if system else messages, definitions

    def _tools(self, settings: Settings) -> Toolbox:
        """What may be called in this mode. Raises ToolError or InterpreterError."""
        match self.conversation.mode:
            case "chat":
                return Toolbox()
            case "code":
                from chatglm3.tools.interpreter import best_isolation, interpreter_tool

                runner = interpreter_tool(self._started_interpreter())
                return Toolbox(interpreter=replace(runner, needs_approval=best_isolation() is None))
        wanted = Settings(tools=settings.tools, definitions=settings.definitions, mcp=settings.mcp)
        if self._toolbox is not None:
            if self._toolbox[0] == wanted:
                return self._toolbox[1]
            self._toolbox[1].close()
            self._toolbox = None
        self._toolbox = wanted, open_tools(self._host, wanted)
        return self._toolbox[1]

    def _started_interpreter(self) -> Interpreter:
        if self._interpreter is None:
            from chatglm3.tools.interpreter import Interpreter

            self._interpreter = Interpreter(unsafe=self._host.unsafe_interpreter)
        return self._interpreter

    def _take(self, run: _Run, done: Done) -> None:
        """Go on with a complete answer."""
        before = len(self.conversation.messages)
        self.conversation.set_messages(done.history)
        if run.replies is not None:
            self.conversation.tokens = run.replies.tokens
        run.live = LiveSteps()
        self._note_details(before, [Detail(list(r.images), r.seconds, r.is_error) for r in done.results])

    def _keep(self, run: _Run) -> None:
        """Go on with what an answer had come to."""
        before = len(self.conversation.messages)
        self.conversation.set_messages([*self.conversation.messages, *run.unfinished.messages])
        calls = [step for step in run.live.steps if step.kind == "call" and step.status != "writing"]
        run.live = LiveSteps()
        self._note_details(
            before, [Detail(step.images, step.seconds or 0.0, step.status != "done") for step in calls]
        )

    def _note_details(self, before: int, details: Sequence[Detail]) -> None:
        """Remember what belongs to the observations from message `before` on, in their order."""
        observations = (
            number
            for number, message in enumerate(self.conversation.messages)
            if number >= before and message.role == "observation"
        )
        self.conversation.details |= dict(zip(observations, details))


def open_tools(host: Host, settings: Settings) -> Toolbox:
    """The tools that settings name: the page's, own definitions, own MCP servers. Raises ToolError."""
    if settings.mcp and not host.own_mcp:
        raise ToolError(
            "MCP servers cannot be added to a page that other machines can reach; start it with --mcp"
        )
    offered: list[Tool] = [host.tools[name] for name in settings.tools if name in host.tools]
    return Toolbox(*offered, *read_definitions(settings.definitions), *map(McpServer.parse, settings.mcp))
