"""What the page says, in each of its languages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Texts:
    """The words of one language."""

    code: str
    """As in an address and in `<html lang>`."""
    other: str
    """The name of the other language, in that language."""
    new: str
    conversations: str
    delete: str
    delete_sure: str
    export_json: str
    export_markdown: str
    import_file: str
    theme: str
    mode: str
    modes: dict[str, str]
    placeholder: str
    greeting: dict[str, str]
    """What an empty conversation shows, by mode."""
    settings: str
    system: str
    system_info: str
    temperature: str
    top_p: str
    max_tokens: str
    max_tokens_info: str
    repetition_penalty: str
    seed: str
    seed_info: str
    tools: str
    tools_info: str
    definitions: str
    definitions_info: str
    mcp: str
    mcp_info: str
    check_tools: str
    offered: str
    """Before a list of names."""
    none: str
    saved: str
    called: str
    ran: str
    result: str
    output: str
    picture: str
    failed: str
    writing: str
    running: str
    asks: str
    """A tool wants to be run; {name}."""
    allow: str
    always: str
    refuse: str
    observe: str
    """Asks for the result of a call; {name}."""
    observe_info: str
    send: str
    files: str
    too_large: str
    """Names of files that are not offered; {names}."""
    context: str
    """{used}, {limit}, {percent}."""
    context_unknown: str
    error: str
    """{reason}."""
    retry_hint: str
    imported: str
    uploaded: str
    busy: str
    keys: str


EN = Texts(
    code="en",
    other="中文",
    new="New conversation",
    conversations="Conversations",
    delete="Delete",
    delete_sure="Delete this conversation for good?",
    export_json="Export JSON",
    export_markdown="Export Markdown",
    import_file="Import",
    theme="Light / dark",
    mode="Mode",
    modes={"chat": "Chat", "tool": "Tool", "code": "Code Interpreter"},
    placeholder="Message. Enter sends, Shift+Enter is a new line",
    greeting={
        "chat": "### What can I do for you?\nTalk with **{model}**.",
        "tool": "### Ask for what a tool can do\nThe model calls the tools that are ticked under *Tools*; "
        "you see each call and its result.",
        "code": "### Ask for something to compute or to plot\nThe model writes Python, which runs isolated "
        "on the machine of this page. Attach a file to ask about it.",
    },
    settings="Settings",
    system="System prompt",
    system_info="What the model is told first, in Chat and Tool",
    temperature="Temperature",
    top_p="Top p",
    max_tokens="Longest reply in tokens",
    max_tokens_info="0: what the context has room for",
    repetition_penalty="Repetition penalty",
    seed="Seed",
    seed_info="Empty: another answer each time",
    tools="Tools",
    tools_info="Offered in the mode Tool",
    definitions="Own tools, as JSON",
    definitions_info="A definition (name, description, parameters) or a list. You type what calls return.",
    mcp="Own MCP servers",
    mcp_info="One a line: a URL, or a command that runs on this machine",
    check_tools="Check the tools",
    offered="Offered",
    none="no tools",
    saved="Settings are kept.",
    called="Called {name}",
    ran="Ran Python",
    result="Result",
    output="Output",
    picture="picture",
    failed="error",
    writing="writing …",
    running="running …",
    asks="The model wants to run **{name}**, which can change something. Allow it?",
    allow="Allow",
    always="Always allow",
    refuse="Refuse",
    observe="Result of {name}",
    observe_info="The model has called this tool, and there is no code for it: give the result in its place",
    send="Send",
    files="Files of this conversation",
    too_large="too large to be offered here: {names}",
    context="Context: {used} of {limit} tokens ({percent} %)",
    context_unknown="Context: {used} tokens",
    error="**This did not work:** {reason}",
    retry_hint="What was said is kept. Try again with the arrow below, or change the settings.",
    imported="Imported.",
    uploaded="Attached: {names}",
    busy="This conversation is being answered; wait, or stop it.",
    keys="Enter sends · Esc stops · Alt+N new conversation · Alt+M next mode",
)

ZH = Texts(
    code="zh",
    other="English",
    new="新建对话",
    conversations="对话列表",
    delete="删除",
    delete_sure="确定要永久删除这个对话吗？",
    export_json="导出 JSON",
    export_markdown="导出 Markdown",
    import_file="导入",
    theme="浅色 / 深色",
    mode="模式",
    modes={"chat": "对话", "tool": "工具调用", "code": "代码解释器"},
    placeholder="输入消息。回车发送，Shift+回车换行",
    greeting={
        "chat": "### 有什么可以帮你？\n与 **{model}** 对话。",
        "tool": "### 请提出工具能完成的请求\n模型会调用“工具”中勾选的工具，每次调用及其结果都会显示出来。",
        "code": "### 请提出计算或绘图的请求\n模型编写 Python 代码，在本机隔离运行。可以上传文件并提问。",
    },
    settings="设置",
    system="系统提示词",
    system_info="模型首先看到的内容，用于“对话”和“工具调用”",
    temperature="温度",
    top_p="Top p",
    max_tokens="回复的最大长度（token）",
    max_tokens_info="0：以上下文剩余空间为限",
    repetition_penalty="重复惩罚",
    seed="随机种子",
    seed_info="留空：每次回答都不同",
    tools="工具",
    tools_info="在“工具调用”模式中提供",
    definitions="自定义工具（JSON）",
    definitions_info="一个定义（name、description、parameters）或一个列表。调用的返回值由你填写。",
    mcp="自定义 MCP 服务器",
    mcp_info="每行一个：网址，或在本机运行的命令",
    check_tools="检查工具",
    offered="已提供",
    none="没有工具",
    saved="设置已保存。",
    called="调用了 {name}",
    ran="运行了 Python",
    result="结果",
    output="输出",
    picture="图片",
    failed="出错",
    writing="正在编写……",
    running="正在运行……",
    asks="模型想要运行 **{name}**，它可能会改动一些东西。是否允许？",
    allow="允许",
    always="始终允许",
    refuse="拒绝",
    observe="{name} 的结果",
    observe_info="模型调用了这个工具，但它没有代码：请代为给出结果",
    send="发送",
    files="本对话的文件",
    too_large="文件太大，无法在此提供：{names}",
    context="上下文：已用 {used} / {limit} 个 token（{percent} %）",
    context_unknown="上下文：已用 {used} 个 token",
    error="**未能完成：** {reason}",
    retry_hint="已有内容均已保留。点击下方箭头重试，或修改设置。",
    imported="导入完成。",
    uploaded="已上传：{names}",
    busy="这个对话正在生成回答，请等待或停止。",
    keys="回车发送 · Esc 停止 · Alt+N 新建对话 · Alt+M 切换模式",
)

LANGUAGES = {"en": EN, "zh": ZH}
