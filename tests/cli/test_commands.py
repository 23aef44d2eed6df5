"""The commands as a script uses them: arguments, pipes, JSON, errors, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatglm3 import __version__
from chatglm3.chat import ChatGLM3
from chatglm3.cli import COMMANDS
from chatglm3.cli.arguments import size
from chatglm3.config import ModelConfig
from chatglm3.estimate import memory_need
from chatglm3.prompt import Message
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]
GREEDY = ["--temperature", "0", "--max-tokens", "12"]


def test_version_and_help(run: Run) -> None:
    assert run("--version").out == f"chatglm3 {__version__}\n"
    overview = run("--help").out
    assert all(name in overview for name in COMMANDS)
    assert "exit codes" in overview
    nothing = run()
    assert (nothing.code, nothing.out) == (2, "")
    assert nothing.err == overview


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_by_example(run: Run, command: str) -> None:
    shown = run(command, "--help")
    assert shown.code == 0
    assert f"examples:\n  chatglm3 {command}" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 110


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["chta"], "did you mean 'chat'?"),
        (["chat", "--temprature", "1"], "did you mean '--temperature'?"),
        (["chat", "--top-k", "2.5"], "invalid int value: '2.5'"),
        (["chat", "--quantize", "int3"], "invalid choice: 'int3'"),
        (["generate"], "--prompt --prompts is required"),
        (["generate", "--prompt", "x", "--temperature", "-1"], "temperature is -1.0"),
        (["generate", "--prompt", "x", "--top-p", "2"], "top_p is 2.0"),
        (["generate", "--prompt", "x", "--n", "0"], "n is 0"),
        (["quantize", "nano", "out", "--scheme", "int5"], "invalid choice: 'int5'"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(run: Run, words: list[str], complaint: str) -> None:
    outcome = run(*words)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert complaint in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["chat", "no-such-folder"], "no-such-folder"),
        (["info", "no-such-folder"], "no-such-folder"),
        (["generate", "--prompts", "absent.txt"], "absent.txt: No such file or directory"),
        (["generate", "--prompt", "x", "--device", "cuda:99"], "cuda:99"),
        (["download", "./here"], "./here"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_code_1(run: Run, words: list[str], complaint: str) -> None:
    outcome = run(*words, stdin="hi")
    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert complaint in outcome.err
    assert outcome.err.count("\n") == 1


def test_all_of_standard_input_is_one_message(run: Run, model_folder: Path) -> None:
    question = "hello world\n你好，世界！\n"
    piped = run("chat", model_folder, *GREEDY, stdin=question)
    model = ChatGLM3.load(model_folder)
    answer = model.chat(question, temperature=0, max_tokens=12).content
    assert (piped.code, piped.out, piped.err) == (0, answer.removesuffix("\n") + "\n", "")
    assert run("chat", model_folder, *GREEDY, stdin="\ufeff" + question).out == piped.out


def test_the_system_prompt_is_used(run: Run, model_folder: Path) -> None:
    piped = run("chat", model_folder, *GREEDY, "--system", "how are you", stdin="hello")
    model = ChatGLM3.load(model_folder)
    history = [Message("system", "how are you")]
    assert piped.out.strip("\n") == model.chat("hello", history=history, temperature=0, max_tokens=12).content


def test_json_is_one_object_a_line_and_done_holds_it_all(run: Run, model_folder: Path) -> None:
    lines = [
        json.loads(line)
        for line in run("chat", model_folder, "--json", *GREEDY, stdin="hello").out.splitlines()
    ]
    *events, done = lines
    assert "".join(event["text"] for event in events if event["event"] == "text") == done["content"]
    assert done["event"] == "done"
    assert done["finish_reason"] == "length"
    assert done["usage"]["completion_tokens"] == 12
    assert done["usage"]["prompt_tokens"] > 2


def test_the_same_seed_gives_the_same_answer(run: Run, model_folder: Path) -> None:
    words = ["chat", model_folder, "--seed", "7", "--max-tokens", "20"]
    assert run(*words, stdin="hello").out == run(*words, stdin="hello").out


@pytest.mark.parametrize(
    ("stdin", "complaint"),
    [
        ("", "there is no question"),
        ("\n \n", "there is no question"),
        ("你好".encode("gb18030"), "is not UTF-8"),
    ],
)
def test_a_question_that_cannot_be_asked(run: Run, stdin: str | bytes, complaint: str) -> None:
    outcome = run("chat", stdin=stdin)
    assert outcome.code == 1
    assert complaint in outcome.err


def test_a_question_beyond_the_context(run: Run, short_context: Path) -> None:
    outcome = run("chat", short_context, stdin="hello " * 100)
    assert outcome.code == 1
    assert "tokens" in outcome.err
    assert outcome.err.count("\n") == 1


def test_one_prompt_is_continued_as_plain_text(run: Run, model_folder: Path) -> None:
    expected = ChatGLM3.load(model_folder).generate("hello", temperature=0, max_tokens=12)
    assert run("generate", model_folder, "--prompt", "hello", *GREEDY).out == expected + "\n"


def test_a_file_of_prompts_gives_json_in_its_order(run: Run, model_folder: Path, tmp_path: Path) -> None:
    prompts = ["hello world", "你好", "1 2 3"]
    (tmp_path / "prompts.txt").write_text("hello world\r\n\n你好\n1 2 3\n", encoding="utf-8")
    rows = [{"prompt": prompt, "id": i} for i, prompt in enumerate(prompts)]
    jsonl = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "prompts.jsonl").write_text(jsonl, encoding="utf-8")

    text = run("generate", model_folder, "--prompts", "prompts.txt", *GREEDY)
    records = [json.loads(line) for line in text.out.splitlines()]
    model = ChatGLM3.load(model_folder)
    for record, prompt in zip(records, prompts, strict=True):
        assert record["prompt"] == prompt
        assert record["completions"][0]["text"] == model.generate(prompt, temperature=0, max_tokens=12)

    assert run("generate", model_folder, "--prompts", "prompts.jsonl", "--output", "out", *GREEDY).out == ""
    written = [json.loads(line) for line in (tmp_path / "out").read_text(encoding="utf-8").splitlines()]
    assert [record.pop("id") for record in written] == [0, 1, 2]
    assert written == records
    piped = run("generate", model_folder, "--prompts", "-", *GREEDY, stdin="\n".join(prompts))
    assert piped.out == text.out


def test_several_continuations_with_their_probabilities(run: Run, model_folder: Path) -> None:
    options = ["--n", "2", "--logprobs", "3", "--max-tokens", "4", "--seed", "1"]
    outcome = run("generate", model_folder, "--prompt", "hello", *options)
    first, second = json.loads(outcome.out)["completions"]
    assert first != second
    for completion in (first, second):
        assert len(completion["logprobs"]) == completion["tokens"]
        for entry in completion["logprobs"]:
            assert len(entry["top"]) == 3
            assert all(entry["logprob"] <= 0 for entry in [entry, *entry["top"]])


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.jsonl", '{"prompt": "x"}\nnot json\n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"text": "x"}\n', "a.jsonl, line 1: needs an object"),
        ("a.jsonl", '{"prompt": "x", "completions": 1}\n', 'the field "completions"'),
        ("a.txt", "\n\n", "a.txt: there is no prompt in it"),
    ],
)
def test_a_bad_prompts_file_is_named(run: Run, tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    outcome = run("generate", "--prompts", name)
    assert outcome.code in (1, 2)
    assert complaint in outcome.err


def test_quantize_writes_a_model_that_chats(run: Run, model_folder: Path, tmp_path: Path) -> None:
    written = run("quantize", model_folder, "small", "--scheme", "int8", "--group-size", "64")
    assert (written.code, written.err) == (0, "")
    assert "kB" in written.out
    assert run("chat", "./small", *GREEDY, stdin="hello").out.strip()
    again = run("quantize", model_folder, "small", "--scheme", "int8")
    assert again.code == 1
    assert "weights already" in again.err
    assert run("quantize", "./small", "smaller", "--scheme", "int4").code == 1
    assert not list(tmp_path.glob("smaller/*.safetensors"))


def test_download_prints_the_folder(run: Run, model_folder: Path) -> None:
    assert run("download", model_folder).out == f"{model_folder}\n"


def test_info_of_a_folder(run: Run, model_folder: Path) -> None:
    shown = run("info", model_folder)
    assert (shown.code, shown.err) == (0, "")
    config = ModelConfig.from_folder(model_folder)
    assert f"context     {config.max_seq_len} tokens" in shown.out
    assert str(model_folder) in shown.out
    for device in ("cpu", "cuda", "mps"):
        for name, format in (
            ("float32", "float32"),
            ("16 bit", "bfloat16"),
            ("int8", "int8"),
            ("int4", "int4"),
        ):
            needs = [memory_need(config, format, device, context) for context in (512, 2048, 8192)]
            numbers = [size(needs[0].weights), *(size(need.total) for need in needs)]
            row = next(line for line in shown.out.splitlines() if line.startswith(device) and name in line)
            assert row.split("  ")[0] == device
            assert [cell.strip() for cell in row.split("  ") if cell.strip()][2:] == numbers


def test_info_without_weights_says_what_a_download_takes(
    run: Run, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    shown = run("info", tmp_path)
    assert shown.code == 0
    assert re.search(r"to download +\d+\.\d kB, float32", shown.out)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    broken = run("info", tmp_path)
    assert broken.code == 1
    assert "model-1.safetensors" in broken.err
    assert run("download", tmp_path).code == 1


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (12_487_168_064, "12.5 GB"), (2e13, "20000.0 GB")],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def script(*words: object) -> list[str]:
    return [sys.executable, "-m", "chatglm3", *map(str, words)]


def test_a_reader_who_leaves_ends_the_program_quietly(model_folder: Path) -> None:
    words = script("generate", model_folder, "--prompt", "hello", "--max-tokens", "5000")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


def test_any_locale_can_print_chinese(model_folder: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(
        script("generate", model_folder, "--prompt", "你好", *GREEDY, "--n", "2"),
        env=env,
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout.decode("utf-8"))["prompt"] == "你好"


def test_starting_up_leaves_the_compiler_alone(model_folder: Path) -> None:
    """Importing torch._dynamo would double the time to the first prompt."""
    code = (
        "import sys; from chatglm3.cli import main; "
        f"assert main(['generate', {str(model_folder)!r}, '--prompt', 'hi', '--max-tokens', '2']) == 0; "
        "assert 'torch._dynamo' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
