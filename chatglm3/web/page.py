"""The page: what stands where, and which handler hears what."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from chatglm3.web.conversation import MODES
from chatglm3.web.handlers import Handlers, View, settings_values
from chatglm3.web.texts import LANGUAGES, Texts
from chatglm3.web.users import Users

_MATH: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": r"\[", "right": r"\]", "display": True},
    {"left": r"\(", "right": r"\)", "display": False},
]
_FONTS = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    """Colours and fonts; these are the system's, so that none is fetched."""
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONO)


class Page:
    """The parts of the page by name, and the wiring between them."""

    def __init__(self, users: Users, texts: Texts, folder: Path) -> None:
        self._users = users
        self._texts = texts
        self._handlers = Handlers(users, texts, folder)
        self._parts: dict[str, Any] = {}
        self._settings: list[Any] = []
        with gr.Blocks(title="ChatGLM3", analytics_enabled=False, fill_height=True) as self.blocks:
            self._side()
            self._main()
            self._wire()
        self.blocks.queue(default_concurrency_limit=None)

    def _side(self) -> None:
        """Conversations and settings."""
        texts, parts = self._texts, self._parts
        with gr.Sidebar(width=300, elem_id="side"):
            parts["new"] = gr.Button(texts.new, variant="primary", elem_id="new")
            parts["conversations"] = gr.Radio(
                [], label=texts.conversations, elem_id="conversations", interactive=True
            )
            with gr.Row(elem_classes="actions"):
                parts["delete"] = gr.Button(texts.delete, size="sm", elem_id="delete")
                parts["import"] = gr.UploadButton(
                    texts.import_file, size="sm", file_types=[".json", ".md"], elem_id="import"
                )
            with gr.Row(elem_classes="actions"):
                parts["json"] = gr.Button(texts.export_json, size="sm", elem_id="export-json")
                parts["md"] = gr.Button(texts.export_markdown, size="sm", elem_id="export-md")
            parts["download"] = gr.DownloadButton(visible="hidden", elem_id="download")
            with gr.Accordion(texts.settings, open=False, elem_id="settings"):
                self._settings += [
                    gr.Textbox(label=texts.system, info=texts.system_info, lines=2),
                    gr.Slider(0, 2, step=0.05, label=texts.temperature),
                    gr.Slider(0.05, 1, step=0.05, label=texts.top_p),
                    gr.Number(label=texts.max_tokens, info=texts.max_tokens_info, minimum=0, precision=0),
                    gr.Slider(0.5, 2, step=0.05, label=texts.repetition_penalty),
                    gr.Number(label=texts.seed, info=texts.seed_info, precision=0),
                ]
            with gr.Accordion(texts.tools, open=False, elem_id="tools"):
                names = [tool.name for tool in self._users.host.tools]
                self._settings += [
                    gr.CheckboxGroup(names, label=texts.tools, info=texts.tools_info),
                    gr.Textbox(
                        label=texts.definitions,
                        info=texts.definitions_info,
                        lines=4,
                        max_lines=12,
                        elem_id="definitions",
                    ),
                    gr.Textbox(
                        label=texts.mcp,
                        info=texts.mcp_info,
                        lines=2,
                        visible=self._users.host.own_mcp,
                        elem_id="mcp",
                    ),
                ]
                parts["check"] = gr.Button(texts.check_tools, size="sm", elem_id="check-tools")
                parts["tools_said"] = gr.Markdown(elem_id="tools-said")
            parts["settings_said"] = gr.Markdown(elem_id="settings-said")

    def _main(self) -> None:
        """The conversation."""
        texts, parts = self._texts, self._parts
        parts["current"] = gr.Textbox(visible="hidden", elem_id="current")
        with gr.Column(elem_id="main"):
            with gr.Row(elem_id="top"):
                parts["mode"] = gr.Radio(
                    [(texts.modes[mode], mode) for mode in MODES],
                    value="chat",
                    show_label=False,
                    container=False,
                    elem_id="mode",
                )
                other = next(code for code in LANGUAGES if code != texts.code)
                gr.HTML(
                    f'<button data-action="language:{other}" lang="{other}">{texts.other}</button>'
                    f'<button data-action="theme">{texts.theme}</button>',
                    elem_id="links",
                )
            parts["chat"] = gr.Chatbot(
                elem_id="chat",
                show_label=False,
                latex_delimiters=_MATH,
                editable="user",
                buttons=["copy", "copy_all"],
                allow_tags=False,
                layout="bubble",
                height=None,
            )
            with gr.Row(visible=False, elem_id="approval") as parts["approval"]:
                parts["asks"] = gr.Markdown()
                parts["allow"] = gr.Button(texts.allow, variant="primary", size="sm")
                parts["always"] = gr.Button(texts.always, size="sm")
                parts["refuse"] = gr.Button(texts.refuse, size="sm")
            with gr.Row(visible=False, elem_id="observation") as parts["observation"]:
                parts["result"] = gr.Textbox(
                    info=texts.observe_info, lines=1, max_lines=8, scale=8, elem_id="result"
                )
                parts["observe"] = gr.Button(texts.send, variant="primary", scale=1, elem_id="observe")
            parts["files"] = gr.File(
                label=texts.files, file_count="multiple", interactive=False, visible=False, elem_id="files"
            )
            parts["message"] = gr.MultimodalTextbox(
                placeholder=texts.placeholder,
                show_label=False,
                file_count="multiple",
                sources=["upload"],
                max_plain_text_length=1_000_000,  # longer pastes become files
                autofocus=True,
                elem_id="message",
            )
            parts["status"] = gr.Markdown(elem_id="status")

    def _wire(self) -> None:
        parts, handlers, texts = self._parts, self._handlers, self._texts
        current, mode, message, chat = (parts[name] for name in ("current", "mode", "message", "chat"))
        find = "() => new URLSearchParams(location.search).get('c') || ''"
        self._on(self.blocks.load, handlers.open, [current], js=find)
        self._on(parts["conversations"].input, handlers.open, [parts["conversations"]])
        self._on(parts["new"].click, handlers.new, [mode])
        sure = f"(id, mode) => [confirm({texts.delete_sure!r}) ? id : '', mode]"
        self._on(parts["delete"].click, handlers.delete, [current, mode], js=sure)
        self._on(parts["import"].upload, handlers.import_file, [parts["import"]])
        self._on(mode.input, handlers.choose_mode, [current, mode])
        self._on(message.submit, handlers.send, [message, current, mode])
        self._on(chat.retry, handlers.again, [current])
        self._on(chat.edit, handlers.edit, [current])
        self._on(chat.undo, handlers.undo, [current])
        self._on(parts["observe"].click, handlers.observe, [parts["result"], current])
        self._on(parts["result"].submit, handlers.observe, [parts["result"], current])
        self._at_once(message.stop, handlers.stop)
        self._at_once(parts["allow"].click, handlers.allow)
        self._at_once(parts["always"].click, handlers.always_allow)
        self._at_once(parts["refuse"].click, handlers.refuse)
        for name, export in (("json", handlers.export_json), ("md", handlers.export_markdown)):
            written = parts[name].click(export, [current], [parts["download"]], api_visibility="private")
            written.then(None, js="() => setTimeout(() => document.querySelector('#download')?.click(), 100)")
        texts_left = [part.blur for part in self._settings if isinstance(part, (gr.Textbox, gr.Number))]
        gr.on(
            [*(part.input for part in self._settings), *texts_left],
            handlers.save_settings,
            self._settings,
            parts["settings_said"],
            show_progress="hidden",
            trigger_mode="always_last",
            api_visibility="private",
        )
        parts["check"].click(handlers.check_tools, None, parts["tools_said"], api_visibility="private")
        self.blocks.unload(handlers.leave)
        show = "(id) => history.replaceState(null, '', id ? `?c=${id}` : location.pathname)"
        current.change(None, [current], js=show)

    def _at_once(self, event: Any, handler: Callable[..., None]) -> None:
        """Hear an event while an answer is under way."""
        event(handler, [self._parts["current"]], None, queue=False, api_visibility="private")

    def _on(self, event: Any, handler: Callable[..., Any], inputs: list[Any], **more: Any) -> None:
        """Hear an event, and draw the view or views that the handler gives."""
        drawing = (
            self._drawing_each(handler) if inspect.isgeneratorfunction(handler) else self._drawing(handler)
        )
        outputs = [*self._parts.values(), *self._settings]
        event(drawing, inputs, outputs, show_progress="hidden", api_visibility="private", **more)

    def _drawing(self, handler: Callable[..., View]) -> Callable[..., dict[Any, Any]]:
        @functools.wraps(handler)
        def drawing(*args: Any) -> dict[Any, Any]:
            return self._updates(handler(*args))

        return drawing

    def _drawing_each(
        self, handler: Callable[..., Iterator[View]]
    ) -> Callable[..., Iterator[dict[Any, Any]]]:
        @functools.wraps(handler)
        def drawing(*args: Any) -> Iterator[dict[Any, Any]]:
            with contextlib.closing(handler(*args)) as views:  # type: ignore[type-var]
                for view in views:
                    yield self._updates(view)

        return drawing

    def _updates(self, view: View) -> dict[Any, Any]:
        """A view by components."""
        updates = {self._parts[name]: value for name, value in view.items() if name != "settings"}
        if (settings := view.get("settings")) is not None:
            updates |= dict(zip(self._settings, settings_values(settings, self._users.host.tools)))
        return updates
