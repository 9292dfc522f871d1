"""What goes to the model: language, passages, history and templates, and what fits into the window."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkeep_generator.fence import Fence
from ragkeep_generator.language import Language, language_of, no_answer, not_found, says_no
from ragkeep_generator.language_model import Options, Passage, Question, Turn
from ragkeep_generator.prompt import assemble, estimated_tokens, rewriting
from ragkeep_generator.template import check_template, fill
from ragkeep_runtime.errors import ContextTooSmall, TemplateInvalid

PASSAGES = [Passage(1, "忘记密码", "用自助门户。"), Passage(2, "VPN", "Restart it.")]
HISTORY = [Turn(f"Question {n}?", f"Answer {n}. " * 20) for n in range(1, 6)]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("VPN 怎么办？", Language.CHINESE),
        ("这个の按钮是干什么用的，能不能在页面上去掉它？", Language.CHINESE),
        ("プリンターがオフラインです。どうすればいいですか？", Language.JAPANESE),
        ("VPN 연결이 안 됩니다", Language.KOREAN),
        ("What now?", Language.ENGLISH),
        ("0x80070005", Language.ENGLISH),
    ],
)
def test_a_questions_language_is_known_by_its_script(text: str, language: Language) -> None:
    """Product names in it do not count, nor one kana in Chinese."""
    assert language_of(text) is language


@pytest.mark.parametrize("language", list(Language))
def test_an_honest_no_says_what_was_looked_for_and_is_known_again(language: Language) -> None:
    """In every language; a long question is shown shortened, and braces in it are its own."""
    text = not_found(language, "VPN {not_found}\n809")
    assert "VPN {not_found} 809" in text
    assert says_no(text)
    assert says_no(f"Well: {no_answer(language).upper()}")
    assert len(not_found(language, "长" * 8000)) < 500


def test_an_answer_is_no_honest_no() -> None:
    """Also where it speaks of documents."""
    assert not says_no("The answer is in the documents: restart it [1].")
    assert says_no("Sorry! The answer to this question is  not in the documents")


def test_the_prompt_is_in_the_questions_language_and_holds_passages_as_data() -> None:
    """Numbered, titled, before the question; citing and honesty are asked for."""
    system, user = assemble(Question("VPN 怎么办？", PASSAGES), 4000).messages
    assert (system.role, user.role) == ("system", "user")
    assert "用中文回答" in system.content
    assert "[1]" in system.content
    content = user.content
    assert content.index("[1]\n") < content.index("忘记密码") < content.index("[2]\n") < content.index("VPN\n")
    assert content.index("Restart it.") < content.index("VPN 怎么办？")
    english = assemble(Question("What now?", PASSAGES), 4000)
    assert "Answer in English" in english.messages[0].content
    assert "not in the documents" in english.messages[0].content
    assert english.used == (1, 2)


def test_a_language_that_is_asked_for_goes_before_the_questions() -> None:
    """The sentence for an honest no too."""
    system = assemble(Question("VPN 怎么办？", PASSAGES, Options(language=Language.GERMAN)), 4000).messages[0].content
    assert "Answer in German" in system
    assert no_answer(Language.GERMAN) in system


def test_passages_are_whole_or_left_out() -> None:
    """The window decides how many; the first ones go first; none is an error with its ways out."""
    passages = [Passage(n, "", "字" * 300) for n in range(1, 10)]
    prompt = assemble(Question("问题", passages), 1500)
    assert 1 < len(prompt.used) < 9
    assert prompt.used + prompt.left_out == tuple(range(1, 10))
    assert prompt.messages[-1].content.count("字" * 300) == len(prompt.used)
    with pytest.raises(ContextTooSmall, match=r"RAGKEEP_NUM_CTX.*max_tokens"):
        assemble(Question("问题", passages), 400)


def test_history_fills_what_the_passages_leave_newest_first() -> None:
    """Quoted in their order; passages never give way to it."""
    question = Question("And then?", PASSAGES, history=HISTORY, searched="Question 5? And then?")
    everything = assemble(question, 4000)
    assert everything.history_turns == 5
    assert [message.role for message in everything.messages] == ["system", "user"]
    content = everything.messages[-1].content
    assert (
        content.index("Restart it.") < content.index("Question 1?") < content.index("Answer 1.") < content.index("Question 5?")
    )
    assert content.endswith("And then?")
    some = assemble(question, 900)
    assert 0 < some.history_turns < 5
    assert some.used == (1, 2)
    assert f"User: {HISTORY[-some.history_turns].question}" in some.messages[1].content
    assert HISTORY[-some.history_turns - 1].question not in some.messages[1].content


def test_without_room_for_history_the_whole_question_stands_for_it() -> None:
    """A bare "And then?" would mean nothing to the model."""
    question = Question("And then?", PASSAGES, history=HISTORY, searched="Question 5? And then?")
    prompt = assemble(question, 4000, with_history=False)
    assert prompt.history_turns == 0
    assert prompt.messages[-1].content.endswith("Question: Question 5? And then?")


def test_a_template_is_the_whole_prompt() -> None:
    """Values are put in as they are: a placeholder in a passage stays text."""
    passages = [Passage(1, "t", "{question} {nothing}")]
    template = "Use {{these}}:\n{passages}\nReply in {language} to {question}, or say {not_found}"
    check_template(template)
    prompt = assemble(Question("Why {passages}?", passages, template=template), 4000)
    (message,) = prompt.messages
    assert message.role == "user"
    note = Fence(prompt.marker).note(Language.ENGLISH)
    assert message.content == (
        f"Use {{these}}:\n{note}\n\n[1]\n<{prompt.marker}>\nt\n{{question}} {{nothing}}\n</{prompt.marker}>\nReply in English to "
        "Why {passages}?, or say I am sorry, the answer to this question is not in the documents."
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{passages} {question} {customer}", r"\{customer\}; known are \{passages\}, \{question\}"),
        ("{passages} {question!r}", r"\{question!r\}"),
        ("{passages} {question:10}", r"\{question:10\}"),
        ("{passages.__class__} {question}", "unknown placeholder"),
        ("{passages} {question} {}", "unknown placeholder"),
        ("{passages}", r"\{question\} exactly once; it is there 0 times"),
        ("{passages} {question} {question}", "2 times"),
        ("{passages} {question} {", "without its partner"),
        ("{passages} {question} }", "without its partner"),
        (" ", "1 to 16000 characters"),
        ("{passages} {question}\0", "no NUL"),
        ("{passages} {question}" + "x" * 16_000, "1 to 16000 characters"),
    ],
)
def test_a_wrong_template_is_refused_with_what_is_wrong(template: str, words: str) -> None:
    """Before anything is asked of a model."""
    with pytest.raises(TemplateInvalid, match=words) as failed:
        check_template(template)
    assert failed.value.field == "prompt_template"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["{passages}", "{question}", "{", "}", "{{", "}}", "x", "!r", ":", "[0]", "字"])).map("".join))
def test_any_template_is_taken_whole_or_refused(template: str) -> None:
    """One that is taken holds both values, whatever they are."""
    try:
        check_template(template)
    except TemplateInvalid:
        return
    filled = fill(template, {"passages": "PPP", "question": "{passages}"})
    assert filled.count("PPP") == 1
    assert "{passages}" in filled


def test_a_question_is_made_whole_from_the_last_turns_that_fit() -> None:
    """At most four; long answers are shortened; none where not even one fits."""
    prompt = rewriting("And then?", HISTORY, 4000)
    assert prompt is not None
    assert prompt.history_turns == 4
    text = prompt.messages[-1].content
    assert "Question 1?" not in text
    assert text.index("Question 2?") < text.index("Question 5?") < text.index("Last question: And then?")
    fewer = rewriting("And then?", [Turn("x" * 3000, ""), HISTORY[0]], 600)
    assert fewer is not None
    assert fewer.history_turns == 1
    assert rewriting("And then?", HISTORY, 100) is None
    chinese = rewriting("然后呢？", HISTORY, 4000)
    assert chinese is not None
    assert "改写" in chinese.messages[0].content


def test_tokens_are_estimated_rather_too_many() -> None:
    """More than a common tokenizer has of either language."""
    assert estimated_tokens("打印机脱机了怎么办") >= 9
    assert estimated_tokens("The printer is offline, what can I do about it?") >= 12
