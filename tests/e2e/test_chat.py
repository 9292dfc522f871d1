"""`ragkeep chat`, and what `ask` and `search` take, as their user types it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, running
from tests.engines.ollama import CHAT_MODEL, OllamaProcess
from tests.terminal import CTRL_C, CTRL_D, Terminal

# The cursor is shown again: the first words of the answer are there.
SPINNER_GONE = "\x1b[?25h"
RAGKEEP = str(Path(sys.executable).with_name("ragkeep"))


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A running installation with the sample in it."""
    with running(tmp_path_factory.mktemp("chat"), "--embedder", "e5", "--retriever", "sqlite", "--generator", "quote") as found:
        yield found


@pytest.mark.engine("quote")
def test_a_conversation_from_a_pipe(command: Command) -> None:
    """A follow-up is understood, and what was searched for is shown; /sources has the passages, /clear forgets."""
    ran = command(
        "chat",
        "--limit",
        "2",
        stdin="打印机脱机了怎么办？\n\n重启以后还是不行呢？\n/sources\n/clear\n还是不行呢？\n/help\n/quit\nx\n",
    )
    first, second, sources, cleared, *_ = ran.stdout.split("\n› ")
    assert "T-1020" in first
    assert "Searched for: 打印机脱机了怎么办？ 重启以后还是不行呢？" in second
    assert "T-1020" in second
    assert "组策略" in sources
    assert "Searched for" not in ran.stdout.split("› 还是不行呢？")[1]
    assert cleared.startswith("/clear")
    assert "/sources" in ran.stderr
    assert "› x" not in ran.stdout


@pytest.mark.engine("quote")
def test_a_conversation_for_machines(command: Command) -> None:
    """One JSON object a line, nothing else on stdout."""
    ran = command("chat", "--json", stdin="VPN error 809\nAnd at home?\n/sources\n/clear\n")
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    kinds = [next(iter(line)) for line in lines]
    assert [line["question"] for line in lines if "question" in line] == ["VPN error 809", "And at home?"]
    assert [line["rewritten"] for line in lines if "rewritten" in line] == [
        {"question": "VPN error 809 And at home?", "model": ""}
    ]
    assert kinds.count("done") == 2
    assert kinds[-2:] == ["sources", "cleared"]
    assert lines[-2]["sources"][0]["document_id"] == "T-1042"
    assert lines[-1] == {"cleared": 2}


@pytest.mark.engine("quote")
def test_a_question_that_fails_does_not_end_the_conversation(command: Command) -> None:
    """The next one is answered; a script sees it by the exit code."""
    ran = command("chat", stdin="长" * 8001 + "\n/nothing\nVPN error 809\n", code=1)
    assert "QUESTION_TOO_LONG" in ran.stderr
    assert "COMMAND_UNKNOWN" in ran.stderr
    assert "T-1042" in ran.stdout
    assert "Traceback" not in ran.stderr
    assert "//etc" not in command("chat", stdin="//etc/hosts is wrong, how do I get VPN error 809\n").stdout.split("\n", 1)[1]


@pytest.mark.engine("quote")
def test_a_conversation_in_a_terminal(command: Command) -> None:
    """A prompt; Ctrl-C there asks to leave properly, Ctrl-D leaves with 0."""
    with Terminal([RAGKEEP, "chat"], command.env) as terminal:
        terminal.until("› ")
        terminal.press("忘记密码怎么办？\n")
        terminal.until("Quoted from the documents")
        terminal.until("› ")
        # Faster than a person, the key may come before Python waits for one, and is then noticed with the next.
        terminal.press(CTRL_C)
        while not terminal.shows("Ctrl-D leaves", 3):
            terminal.press(CTRL_C)
        terminal.until("Ctrl-D leaves")
        terminal.press("/sources\n")
        terminal.until("T-1001")
        terminal.until("› ")
        terminal.press(CTRL_D)
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.seen


@pytest.mark.engine("ollama")
def test_ctrl_c_cancels_the_answer_and_the_engines_work(tmp_path: Path, ollama_server: OllamaProcess) -> None:
    """Not the conversation: the next question is answered, and the cancelled one is no turn."""
    options = ("--embedder", "e5", "--retriever", "sqlite", "--generator", "ollama")
    with (
        running(tmp_path, *options, "--ollama-url", ollama_server.url, "--language-model", CHAT_MODEL) as command,
        Terminal([RAGKEEP, "chat", "--max-tokens", "1500", "--temperature", "1.5", "--limit", "2"], command.env) as terminal,
    ):
        terminal.until("› ")
        terminal.press("Tell me a very long story about VPN error 809 and printers.\n")
        terminal.until("writing …")
        terminal.until(SPINNER_GONE)
        terminal.press(CTRL_C)
        terminal.until("Cancelled.")
        assert ollama_server.becomes_idle(5)
        terminal.until("› ")
        terminal.press(CTRL_D)
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.seen
        assert "Written by" not in terminal.seen


@pytest.mark.engine("sqlite")
def test_an_explanation_shows_halves_ranks_and_both_scores(command: Command) -> None:
    """For people and for machines."""
    out = command("search", "VPN error 809", "--explain", "--limit", "2", "--passages-per-document", "1").stdout
    assert "by meaning #1 (cosine 0." in out
    assert "by words #1 (bm25 " in out
    for mode, other in (("keyword", "meaning"), ("vector", "words")):
        out = command("search", "VPN error 809", "--explain", "--mode", mode).stdout
        assert f"by {'words' if mode == 'keyword' else 'meaning'} #1" in out
        assert f"by {other}" not in out
        assert f"by {other}" not in command("ask", "VPN error 809", "--explain", "--mode", mode).stdout
    source = command.lines("search", "809", "--explain")[0]["source"]
    assert isinstance(source, dict)
    assert source["scores"]["keyword_rank"] == 1
    asked = command("ask", "VPN error 809", "--explain").stdout
    assert "Evidence: " in asked
    assert "by words #1" in asked


@pytest.mark.engine("sqlite")
def test_filters_of_every_kind_narrow_a_search(command: Command) -> None:
    """One of, negation, parentheses; several options must all hold."""

    def categories(*filters: str) -> set[str]:
        arguments = [part for one in filters for part in ("--filter", one)]
        found = command.lines("search", "登录", "--limit", "200", "--mode", "vector", *arguments)
        return {line["source"]["fields"]["category"] for line in found}  # type: ignore[index]

    every = categories()
    assert len(every) > 3
    assert categories("category in (账号管理, 网络与VPN)") == {"账号管理", "网络与VPN"}
    assert categories('not (category=账号管理 or category="网络与VPN")') == every - {"账号管理", "网络与VPN"}
    assert categories("category in (账号管理, 网络与VPN)", "category!=账号管理") == {"网络与VPN"}


@pytest.mark.engine("sqlite")
@pytest.mark.parametrize(
    ("expression", "code", "words"),
    [
        ("category=a)", 2, "at character 11"),
        ("category>=a", 1, "FILTER_TYPE_WRONG"),
        ("unheard in (a)", 1, "FILTER_FIELD_UNKNOWN"),
    ],
)
def test_a_wrong_filter_says_where_it_is_wrong(command: Command, expression: str, code: int, words: str) -> None:
    """Wrong usage before anything is called, a wrong type or field after."""
    assert words in command("search", "x", "--filter", expression, code=code).stderr


@pytest.mark.engine("quote")
def test_an_answer_takes_a_conversation_from_a_file(command: Command, tmp_path: Path) -> None:
    """A turn a line; a wrong line is named."""
    file = tmp_path / "turns.jsonl"
    file.write_text('{"question": "VPN error 809", "answer": "Set the value."}\n')
    assert "Searched for: VPN error 809 And at home?" in command("ask", "And at home?", "--history", str(file)).stdout
    assert "Searched for" in command("ask", "And at home?", "--history", "-", stdin=file.read_text()).stdout
    file.write_text('{"question": "x"}\n\n["y"]\n')
    assert "Line 3 of" in command("ask", "And?", "--history", str(file), code=1).stderr
    assert "FILE_UNREADABLE" in command("ask", "And?", "--history", str(tmp_path / "none"), code=1).stderr


@pytest.mark.engine("quote")
def test_the_threshold_the_language_and_the_model_are_options(command: Command) -> None:
    """What was looked for is told where nothing is good enough; a model that there is not is refused."""
    refused = command("ask", "How do I bake a cake?").stdout
    assert "Looked for: How, do, I, bake, a, cake" in refused
    assert "In no passage found: bake, cake" in refused
    assert "nicht in den Dokumenten" in command("ask", "How do I bake a cake?", "--language", "de").stdout
    assert "[1]" in command("ask", "How do I bake a cake?", "--minimum-coverage", "0").stdout
    assert "[1]" not in command("ask", "VPN für Anfänger", "--minimum-coverage", "1", "--minimum-margin", "1").stdout
    assert "MODEL_NOT_ALLOWED" in command("ask", "VPN error 809", "--model", "llama9", code=1).stderr


@pytest.mark.parametrize(
    "arguments",
    [("--minimum-coverage", "2"), ("--alpha", "-1"), ("--language", "tlh"), ("--passages-per-document", "0")],
)
def test_options_out_of_range_are_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Found before anything is asked."""
    assert arguments[0] in Command(tmp_path)("ask", "x", *arguments, code=2).stderr


def test_chat_without_a_running_installation_tells_the_way_out(tmp_path: Path) -> None:
    """As every command does."""
    assert "ragkeep up" in Command(tmp_path)("chat", stdin="x\n", code=1).stderr
