"""Tools that ask public services which need no key: Open-Meteo, DuckDuckGo, Wikipedia, arXiv."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Annotated, Any
from xml.etree import ElementTree

from chatglm3.errors import ToolError
from chatglm3.tools.function import tool

GEOCODING = "https://geocoding-api.open-meteo.com/v1/search"
FORECAST = "https://api.open-meteo.com/v1/forecast"
DUCKDUCKGO = "https://api.duckduckgo.com/"
WIKIPEDIA = "https://{language}.wikipedia.org/w/api.php"
ARXIV = "https://export.arxiv.org/api/query"

_SECONDS = 15.0
_MAX_BYTES = 2_000_000
_AGENT = "chatglm3 (https://pypi.org/project/chatglm3)"

# Codes of the World Meteorological Organization, as Open-Meteo lists them.
_WEATHER = {
    **dict.fromkeys((0,), "clear sky"),
    **dict.fromkeys((1,), "mainly clear"),
    **dict.fromkeys((2,), "partly cloudy"),
    **dict.fromkeys((3,), "overcast"),
    **dict.fromkeys((45, 48), "fog"),
    **dict.fromkeys((51, 53, 55, 56, 57), "drizzle"),
    **dict.fromkeys((61, 63, 65, 66, 67), "rain"),
    **dict.fromkeys((71, 73, 75, 77), "snow"),
    **dict.fromkeys((80, 81, 82), "rain showers"),
    **dict.fromkeys((85, 86), "snow showers"),
    **dict.fromkeys((95, 96, 99), "thunderstorm"),
}


@tool(timeout=40)
def get_weather(city: Annotated[str, "The city's name, in any language"]) -> dict[str, Any]:
    """Get the current weather of a city."""
    language = "en" if city.isascii() else "zh"
    places = _json(GEOCODING, name=city, count=1, language=language).get("results")
    if not places:
        raise ToolError(f"there is no city {city!r}")
    place = places[0]
    fields = "temperature_2m,apparent_temperature,relative_humidity_2m,wind_speed_10m,weather_code"
    now = _json(FORECAST, latitude=place["latitude"], longitude=place["longitude"], current=fields)["current"]
    return {
        "city": place["name"],
        "country": place.get("country", ""),
        "weather": _WEATHER.get(now["weather_code"], "unknown"),
        "temperature_celsius": now["temperature_2m"],
        "feels_like_celsius": now["apparent_temperature"],
        "humidity_percent": now["relative_humidity_2m"],
        "wind_km_per_hour": now["wind_speed_10m"],
    }


@tool(timeout=40)
def web_search(query: Annotated[str, "What to look for"]) -> list[dict[str, str]] | str:
    """Search the web for facts: DuckDuckGo's instant answers, or else Wikipedia."""
    found = _json(DUCKDUCKGO, q=query, format="json", no_html=1, skip_disambig=1)
    results = []
    if found.get("AbstractText"):
        results.append(
            {"title": found["Heading"], "url": found["AbstractURL"], "text": found["AbstractText"]}
        )
    for topic in found.get("RelatedTopics", []):
        if "Text" in topic and len(results) < 5:
            results.append({"url": topic["FirstURL"], "text": topic["Text"]})
    return results or _wikipedia(query) or "nothing was found"


@tool(timeout=40)
def search_arxiv(
    query: Annotated[str, "Words of the title, the abstract or the authors"],
    max_results: Annotated[int, "How many papers"] = 3,
) -> list[dict[str, Any]] | str:
    """Search arXiv for scientific papers."""
    if not 1 <= max_results <= 20:
        raise ToolError(f"max_results is {max_results}; it can be 1 to 20")
    terms = " AND ".join(f"all:{word}" for word in query.split())
    text = _get(ARXIV, search_query=terms, max_results=max_results)
    atom = "{http://www.w3.org/2005/Atom}"
    try:
        entries = ElementTree.fromstring(text).findall(f"{atom}entry")
    except ElementTree.ParseError as error:
        raise ToolError(f"arXiv's answer cannot be read: {error}") from None

    def field(entry: ElementTree.Element, name: str) -> str:
        return " ".join((entry.findtext(f"{atom}{name}") or "").split())

    return [
        {
            "title": field(entry, "title"),
            "authors": [field(author, "name") for author in entry.findall(f"{atom}author")],
            "published": field(entry, "published")[:10],
            "url": field(entry, "id"),
            "summary": field(entry, "summary"),
        }
        for entry in entries
    ] or "nothing was found"


def _wikipedia(query: str) -> list[dict[str, str]]:
    language = "en" if query.isascii() else "zh"
    pages = _json(
        WIKIPEDIA.format(language=language),
        action="query",
        generator="search",
        gsrsearch=query,
        gsrlimit=3,
        prop="extracts|info",
        inprop="url",
        exintro=1,
        explaintext=1,
        exchars=600,
        format="json",
        formatversion=2,
    )
    found = sorted(pages.get("query", {}).get("pages", []), key=lambda page: page["index"])
    return [
        {"title": page["title"], "url": page["fullurl"], "text": page.get("extract", "")} for page in found
    ]


def _json(url: str, **query: Any) -> dict[str, Any]:
    host = urllib.parse.urlsplit(url).hostname
    text = _get(url, **query)
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ToolError(f"{host} answers something that cannot be read; try later")
    return answer


def _get(url: str, **query: Any) -> bytes:
    host = urllib.parse.urlsplit(url).hostname
    request = urllib.request.Request(f"{url}?{urllib.parse.urlencode(query)}", headers={"User-Agent": _AGENT})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            data: bytes = response.read(_MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise ToolError(f"{host} refuses the request: {error.code} {error.reason}") from None
    except OSError as error:  # URLError and timeouts among them
        raise ToolError(f"{host} cannot be reached ({getattr(error, 'reason', error)})") from None
    if len(data) > _MAX_BYTES:
        raise ToolError(f"{host} answers more than {_MAX_BYTES} bytes")
    return data
