"""A person at the page: Chromium, the page, the server and nano are all real."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.browser.conftest import Script, Tab, expect, page_over
from tests.server.conftest import LiveServer

SLOWLY = "\n " + "one two three four five six seven eight nine ten " * 48  # most of the context


def test_an_answer_streams_in(tab: Tab) -> None:
    """nano itself: whatever it says, it comes in pieces, and the conversation is listed."""
    tab.send("Hello!")
    expect(tab.answers).to_have_count(1)
    seen = {tab.answers.inner_text()}
    while tab.page.locator("#message .stop-button").count():
        seen.add(tab.answers.inner_text())
    assert tab.answers.inner_text().strip()
    expect(tab.page.locator("#conversations label")).to_have_text(["Hello!"])
    expect(tab.page.locator("#status")).to_contain_text("of 2,048 tokens")


def test_an_answer_can_be_stopped(tab: Tab, script: Script, model: LiveServer) -> None:
    script.say(SLOWLY)
    tab.send("Count")
    expect(tab.answers).to_contain_text("three")
    tab.page.locator("#message .stop-button").click()
    tab.wait()
    said = tab.answers.inner_text()
    assert len(said) < len(SLOWLY)
    model.wait_until_idle()
    tab.page.reload()
    expect(tab.answers).to_contain_text("one two three")


def test_escape_stops_as_well(tab: Tab, script: Script) -> None:
    script.say(SLOWLY)
    tab.send("Count")
    expect(tab.answers).to_contain_text("two")
    tab.page.keyboard.press("Escape")
    tab.wait()
    assert len(tab.answers.inner_text()) < len(SLOWLY)


def test_regenerate_edit_and_undo(tab: Tab, script: Script) -> None:
    script.say("\n First.", "\n Second.", "\n Third.")
    tab.ask("Say something")
    tab.page.get_by_role("button", name="Retry").click()
    expect(tab.answers).to_have_text(["Second."])
    tab.wait()
    tab.page.locator("#chat button[aria-label=Edit]").click()
    tab.page.locator("#chat .user textarea").fill("Say something else")
    tab.page.locator("#chat button[aria-label=Submit]").click()
    expect(tab.answers).to_have_text(["Third."])
    tab.wait()
    expect(tab.page.locator("#chat .user.message")).to_have_text(["Say something else"])
    tab.page.get_by_role("button", name="Undo").click()
    expect(tab.page.locator("#chat .message")).to_have_count(0)
    expect(tab.box).to_have_value("Say something else")


def test_reload_keeps_the_conversation_and_there_can_be_several(tab: Tab, script: Script) -> None:
    script.say("\n An answer.", "\n Another answer.")
    tab.ask("First question")
    tab.page.locator("#new").click()
    expect(tab.answers).to_have_count(0)
    tab.ask("Second question")
    tab.page.reload()
    expect(tab.answers).to_have_text(["Another answer."])
    expect(tab.page.locator("#conversations label")).to_have_text(["Second question", "First question"])
    tab.page.locator("#conversations label", has_text="First").click()
    expect(tab.answers).to_have_text(["An answer."])
    tab.page.on("dialog", lambda dialog: dialog.accept())
    tab.page.locator("#delete").click()
    expect(tab.page.locator("#conversations label")).to_have_text(["Second question"])


def test_a_tool_call_is_folded_and_answered(tab: Tab, script: Script) -> None:
    script.say("get_weather\n ```python\ntool_call(city='Oslo')\n```<|observation|>", "\n It is 21 °C.")
    tab.page.locator("#tools").click()
    tab.page.locator("#tools label", has_text="get_weather").click()
    expect(tab.page.locator("#settings-said")).to_have_text("Settings are kept.")
    tab.mode("Tool").ask("How warm is it in Oslo?")
    fold = tab.page.locator("#chat .thought-group, #chat .thought").first
    expect(fold).to_contain_text("Called get_weather")
    expect(tab.page.locator("#chat")).to_contain_text("It is 21 °C.")
    expect(tab.page.get_by_text('"celsius": 21')).not_to_be_visible()
    fold.get_by_text("Called get_weather").click()
    expect(tab.page.get_by_text('"celsius": 21')).to_be_visible()
    expect(tab.page.get_by_text('"city": "Oslo"').first).to_be_visible()


def test_what_can_change_something_is_asked_about(tab: Tab, script: Script) -> None:
    call = "delete_notes\n ```python\ntool_call(name='old')\n```<|observation|>"
    script.say(call, "\n They stay.", call, "\n They are gone.")
    tab.page.locator("#tools").click()
    tab.page.locator("#tools label", has_text="delete_notes").click()
    expect(tab.page.locator("#settings-said")).to_have_text("Settings are kept.")
    tab.mode("Tool").send("Delete my old notes")
    expect(tab.page.locator("#approval")).to_contain_text("delete_notes")
    tab.page.get_by_role("button", name="Refuse").click()
    tab.wait()
    expect(tab.page.locator("#chat")).to_contain_text("They stay.")
    tab.send("Do it")
    tab.page.get_by_role("button", name="Allow", exact=True).click()
    tab.wait()
    expect(tab.page.locator("#chat")).to_contain_text("They are gone.")
    expect(tab.page.locator("#approval")).not_to_be_visible()


def test_the_person_answers_for_a_tool_of_ones_own(tab: Tab, script: Script) -> None:
    script.say("track\n ```python\ntool_call(symbol='10111')\n```<|observation|>", "\n It costs 12412.")
    definition = {"name": "track", "description": "Price of a stock", "parameters": {"type": "object"}}
    tab.page.locator("#tools").click()
    tab.page.locator("#definitions textarea").fill(json.dumps(definition))
    tab.page.locator("#definitions textarea").blur()
    expect(tab.page.locator("#settings-said")).to_have_text("Settings are kept.")
    tab.page.locator("#check-tools").click()
    expect(tab.page.locator("#tools-said")).to_contain_text("track")
    tab.mode("Tool").ask("What does 10111 cost?")
    expect(tab.page.locator("#result")).to_contain_text("Result of track")
    tab.page.reload()
    tab.page.locator("#result textarea, #result input").fill('{"price": 12412}')
    tab.page.locator("#observe").click()
    expect(tab.page.locator("#chat")).to_contain_text("It costs 12412.")
    expect(tab.page.locator("#observation")).not_to_be_visible()


PLOT = """interpreter
 ```python
import matplotlib.pyplot as plt
plt.figure(facecolor=(1, 0, 0))
plt.plot([1, 2, 3])
plt.show()
```<|observation|>"""


@pytest.mark.usefixtures("interpreter")
def test_a_program_and_its_plot_are_seen(tab: Tab, script: Script) -> None:
    script.say(PLOT, "\n The plot is done.")
    tab.mode("Code Interpreter").ask("Plot 1, 2, 3")
    picture = tab.page.locator("#chat img[alt=picture], #chat .image-container img, #chat img").last
    expect(picture).to_be_visible()
    expect(tab.page.locator("#chat")).to_contain_text("The plot is done.")
    expect(tab.page.locator("#chat")).to_contain_text("Ran Python")
    pixels = np.asarray(PIL.Image.open(io.BytesIO(picture.screenshot())).convert("RGB"))
    red = (pixels[..., 0] > 240) & (pixels[..., 1] < 30) & (pixels[..., 2] < 30)
    assert red.mean() > 0.05


READ = """interpreter
 ```python
rows = open('numbers.csv').read().split()
print(len(rows) - 1)
open('copy.csv', 'w').write('\\n'.join(rows) + '\\n')
```<|observation|>"""


@pytest.mark.usefixtures("interpreter")
def test_a_file_goes_in_and_another_comes_out(tab: Tab, script: Script, tmp_path: Path) -> None:
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    script.say(READ, "\n There are 2 rows.")
    tab.page.locator("#message input[type=file]").set_input_files(tmp_path / "numbers.csv")
    expect(tab.page.locator("#message .thumbnail-item")).to_be_visible()
    tab.ask("How many rows does it have?")
    expect(tab.page.locator("#chat")).to_contain_text("There are 2 rows.")
    expect(tab.page.locator("#chat .user.message")).to_contain_text("numbers.csv")
    expect(tab.page.locator("#files")).to_contain_text("copy")
    with tab.page.expect_download() as download:
        tab.page.locator("#files a[download='copy.csv'], #files tr:has-text('copy') a").first.click()
    assert Path(download.value.path()).read_text() == "a,b\n1,2\n3,4\n"


def test_the_other_language(browse: Callable[..., Tab]) -> None:
    tab = browse(locale="zh-CN").open("/")
    assert "/zh/" in tab.page.url
    expect(tab.page.locator("#mode")).to_contain_text("代码解释器")
    tab.page.get_by_text("English").click()
    expect(tab.page.locator("#mode")).to_contain_text("Code Interpreter")
    tab.page.goto(tab.url)
    assert "/en/" in tab.page.url


def test_a_phone_shows_all_of_it(browse: Callable[..., Tab], script: Script) -> None:
    tab = browse(viewport={"width": 360, "height": 700}).open()
    script.say("\n " + "a_long_word_" * 30 + "\n\n```python\n" + "x = 1  # " + "long " * 60 + "\n```")
    tab.ask("你好")
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for part in ("#message", "#mode", "#chat"):
        box = tab.page.locator(part).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
    tab.page.locator("#side .toggle-button").click()
    expect(tab.page.locator("#new")).to_be_in_viewport()


def test_markup_of_a_model_stays_text(tab: Tab, script: Script) -> None:
    attack = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
    script.say(f"\n **Bold** {attack} and `<b>code</b>`\n\n```html\n{attack}\n```\n\n<b>not bold</b>")
    tab.ask(f"Repeat {attack}")
    expect(tab.answers).to_contain_text("<script>window.broken = 1</script>")
    expect(tab.answers).to_contain_text("<b>not bold</b>")
    expect(tab.answers.locator("strong")).to_have_text(["Bold"])
    expect(tab.answers.locator("code").first).to_have_text("<b>code</b>")
    assert tab.page.locator("#chat img, #chat script").count() == 0
    assert tab.page.evaluate("window.broken") is None


def test_formulas_and_code_are_set(tab: Tab, script: Script) -> None:
    script.say("\n $a^2 < b$ costs $5 or $6.\n\n$$\\frac{1}{2}$$\n\n```python\nprint('hi')\n```")
    tab.ask("Formulas")
    expect(tab.answers.locator(".katex").first).to_be_visible()
    assert tab.answers.locator(".katex").count() == 2
    expect(tab.answers).to_contain_text("costs $5 or $6.")
    assert tab.answers.locator("pre code span[class*=token]").count() >= 1


def test_two_browsers_do_not_see_each_other(browse: Callable[..., Tab], script: Script) -> None:
    ada, bob = browse().open(), browse().open()
    script.say("\n Hello Ada.", "\n Hello Bob.")
    ada.ask("I am Ada")
    bob.ask("I am Bob")
    expect(ada.answers).to_have_text(["Hello Ada."])
    expect(bob.answers).to_have_text(["Hello Bob."])
    expect(bob.page.locator("#conversations label")).to_have_text(["I am Bob"])
    bob.page.goto(ada.page.url)  # Ada's conversation by its address
    expect(bob.box).to_be_visible()
    expect(bob.page.locator("body")).not_to_contain_text("Ada")


def test_settings_are_remembered_and_bad_ones_are_told(tab: Tab) -> None:
    tab.page.locator("#settings").click()
    system = tab.page.locator("#settings textarea")
    system.fill("Be brief.")
    system.blur()
    expect(tab.page.locator("#settings-said")).to_have_text("Settings are kept.")
    tab.page.reload()
    tab.page.locator("#settings").click()
    expect(system).to_have_value("Be brief.")


@pytest.mark.parametrize(("button", "suffix"), [("#export-json", ".json"), ("#export-md", ".md")])
def test_a_conversation_can_be_taken_out_and_in(
    tab: Tab, script: Script, tmp_path: Path, button: str, suffix: str
) -> None:
    script.say("\n An answer to **keep**.")
    tab.ask("A question to keep")
    with tab.page.expect_download() as download:
        tab.page.locator(button).click()
    file = tmp_path / download.value.suggested_filename
    assert file.suffix == suffix
    download.value.save_as(file)
    assert "An answer to **keep**." in file.read_text(encoding="utf-8")
    tab.page.locator("#new").click()
    expect(tab.answers).to_have_count(0)
    tab.page.locator("#side input[type=file]").set_input_files(file)
    expect(tab.answers).to_have_text(["An answer to keep."])
    expect(tab.page.locator("#conversations label")).to_have_count(2)


def test_the_dark_colours_are_kept(tab: Tab) -> None:
    tab.page.get_by_role("button", name="Light / dark").click()
    expect(tab.page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
    tab.page.reload()
    expect(tab.page.locator("body")).to_have_class(re.compile(r"\bdark\b"))


def test_keys_lead_everywhere(tab: Tab, script: Script) -> None:
    tab.page.keyboard.press("Alt+m")
    expect(tab.page.locator("#mode label.selected")).to_have_text("Tool")
    script.say("\n Yes.")
    tab.box.press("Shift+Enter")
    tab.ask("Two lines?")
    tab.page.keyboard.press("Alt+n")
    expect(tab.answers).to_have_count(0)


def test_closing_the_tab_ends_the_answer(
    browse: Callable[..., Tab], script: Script, model: LiveServer
) -> None:
    tab = browse().open()
    script.say(SLOWLY)
    tab.send("Count")
    expect(tab.answers).to_contain_text("two")
    tab.page.close()
    model.wait_until_idle()


def test_a_server_that_ends_and_comes_back(
    browse: Callable[..., Tab], script: Script, model: LiveServer, tmp_path: Path
) -> None:
    """The page over another server than its own, which is gone in the middle of an answer."""
    from tests.browser.outage import Outage

    with Outage(model.port) as outage, page_over(f"{outage.url}/v1", tmp_path) as page:
        tab = browse(page.url).open()
        script.say(SLOWLY)
        tab.send("Count")
        expect(tab.answers).to_contain_text("two")
        outage.begin()
        tab.wait()
        expect(tab.page.locator("#chat")).to_contain_text("the server broke the answer off")
        tab.ask("Are you there?")
        expect(tab.page.locator("#chat")).to_contain_text("cannot be reached")
        outage.end()
        script.say("\n I am back.")
        tab.page.get_by_role("button", name="Retry").last.click()
        expect(tab.page.locator("#chat")).to_contain_text("I am back.")
        expect(tab.page.locator("#chat")).not_to_contain_text("cannot be reached")
