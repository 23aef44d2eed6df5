"""A LangChain agent with tools on our server: `python examples/langchain_agent.py [BASE_URL] [MODEL]`.

The arXiv tool asks arxiv.org; the other two need no network.
"""

from __future__ import annotations

import sys
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ET

from langchain.agents import create_agent
from langchain.agents.middleware import ModelCallLimitMiddleware
from langchain_openai import ChatOpenAI

from chatglm3.prompt import ToolCall
from chatglm3.tools import Toolbox

QUESTIONS = ["What is 12 * 34?", "What is the weather in Paris?"]
ATOM = "{http://www.w3.org/2005/Atom}"


def calculator(expression: str) -> str:
    """Calculate an arithmetic expression."""
    with Toolbox("calculator") as toolbox:
        return toolbox.call(ToolCall("calculator", {"expression": expression})).content


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"It is 20 degrees and clear in {city}."


def search_arxiv(query: str) -> str:
    """Search arXiv for papers."""
    fields = urllib.parse.urlencode({"search_query": f"all:{query}", "max_results": 3})
    try:
        with urllib.request.urlopen(f"https://export.arxiv.org/api/query?{fields}", timeout=10) as answer:
            feed = ET.parse(answer).getroot()
    except OSError as error:
        return f"Error: arXiv does not answer ({error})"
    titles = [entry.findtext(f"{ATOM}title", "").strip() for entry in feed.iter(f"{ATOM}entry")]
    return "\n".join(titles) or "nothing found"


def main(base_url: str = "http://127.0.0.1:8000/v1", model: str = "nano") -> None:
    chat = ChatOpenAI(model=model, base_url=base_url, api_key="none", temperature=0, max_tokens=200)  # type: ignore[arg-type,call-arg]
    limit = ModelCallLimitMiddleware(run_limit=4, exit_behavior="end")  # a small model may call for ever
    agent = create_agent(chat, [calculator, get_weather, search_arxiv], middleware=[limit])
    for question in QUESTIONS:
        result = agent.invoke({"messages": [{"role": "user", "content": question}]})
        for message in result["messages"]:
            calls = [f"→ {call['name']} {call['args']}" for call in getattr(message, "tool_calls", [])]
            print(f"{message.type}: {message.text}", *calls)


if __name__ == "__main__":
    main(*sys.argv[1:])
