"""The prompt of a professional customer-service assistant, or a template's, and what fits into the window.

Whatever was not written by us, the installation or the asker is quoted in it: between the request's marker (`fence.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ragkeep_generator.fence import TOKENS, Fence
from ragkeep_generator.language import Language, language_of, no_answer
from ragkeep_generator.language_model import Question, Turn
from ragkeep_generator.template import fill
from ragkeep_runtime.errors import ContextTooSmall

_CHINESE = (
    "你是一名专业的客服助手，依据给出的资料回答用户的问题。\n"
    "- 资料里有答案时，请详细回答，写清步骤、路径和错误代码。\n"
    "- 资料里没有答案时，请如实说明，不要猜测或编造。可以这样说：“{not_found}”\n"
    "- 语气专业、友好、简洁。用中文回答。\n"
    "- 每个说法之后用编号注明出处，例如 [1]、[2]，只使用给出的编号。\n"
    "- {note}"
)
# Every other language is named in the English one.
_ENGLISH = (
    "You are a professional customer-service assistant. Answer the user's question from the given passages.\n"
    "- Where the passages hold the answer, give it in detail: steps, menu paths, error codes.\n"
    '- Where they do not, say so honestly and never guess. For example: "{not_found}"\n'
    "- Be professional, friendly and concise. Answer in {language}.\n"
    "- After each statement cite its passage by number, like [1] or [2]; use only numbers that are given.\n"
    "- {note}"
)
_FRAME = "{passages_label}:\n\n{passages}\n\n{question_label}: {question}"
# The last three stand before the conversation, a turn's question and its answer.
_LABELS = {Language.CHINESE: ("资料", "问题", "此前的对话", "用户", "助手")}
_ENGLISH_LABELS = ("Passages", "Question", "The conversation so far", "User", "Assistant")
_REWRITE_CHINESE = (
    "把用户的最后一个问题改写成脱离对话也能看懂的一个完整问题：补上“它”“那个”或省略的内容所指。保留名称、数字和错误代码。"
    "如果它已经完整，就原样重复。只写这一个问题，不要回答它。"
)
_REWRITE = (
    "Rewrite the user's last question as one whole question that can be understood without the conversation: put in what "
    '"it", "that" or a shortened question refers to. Keep names, numbers and error codes. If it is whole already, repeat it. '
    "Write that one question in its own language and nothing else; do not answer it."
)
# Of the conversation, this much is read to make a question whole: enough to know what is talked about.
_REWRITE_TURNS, _REWRITE_ANSWER = 4, 400
_WIDE = re.compile("[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\ufe30-\uffef\U0001f000-\U0003ffff]")
# Measured generously, since no tokenizer is at hand; Ollama refuses what does not fit, and then fewer passages are tried.
_TOKENS_PER_WIDE, _CHARACTERS_PER_TOKEN, _FRAME_TOKENS, _TURN_TOKENS = 1.1, 3.0, 64, 16


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation with the model."""

    role: str  # system, user or assistant
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What goes to the model."""

    messages: tuple[Message, ...]
    used: tuple[int, ...]  # numbers of the passages in it
    left_out: tuple[int, ...]  # numbers of those that did not fit
    history_turns: int  # turns of the history in it
    marker: str  # that stands around what is quoted in it, and belongs in no answer


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has; rather too many than too few."""
    wide = len(_WIDE.findall(text))
    return int(wide * _TOKENS_PER_WIDE + (len(text) - wide) / _CHARACTERS_PER_TOKEN) + 1


def assemble(question: Question, room: int, *, at_most: int | None = None, with_history: bool = True) -> Prompt:
    """The prompt with as many whole passages, best first, as fit into `room` tokens, then as many turns, newest first.

    `at_most` caps the passages' number. Raises ContextTooSmall where not even one passage fits.
    """
    fence = Fence.new() if question.options.seed is None else Fence.of(repr(_what_is_read(question)))
    language = question.options.language or language_of(question.text)
    note = fence.note(language)
    values = {"language": language.name.capitalize(), "not_found": no_answer(language), "note": note}
    system = "" if question.template else fill(_CHINESE if language is Language.CHINESE else _ENGLISH, values)
    asked, searched = fence.outside(question.text), fence.outside(question.searched)
    # A template is the whole prompt: what the markers are is said where the passages are.
    told = system or f"{question.template}{note}"
    # Whichever of the two questions it will be: the longer one. The note names both markers.
    left = room - _FRAME_TOKENS - TOKENS - estimated_tokens(told) - estimated_tokens(max(asked, searched, key=len))
    parts: list[str] = []
    used: list[int] = []
    for passage in question.passages[:at_most]:
        text = fence.outside(f"{passage.title}\n{passage.text}").strip()
        tokens = estimated_tokens(text) + TOKENS
        if tokens > left:
            # A later, shorter one may still fit, but then the best ones would be missing from the middle: stop here.
            break
        left -= tokens
        # The number stands outside: no passage can give itself another one.
        parts.append(f"[{passage.number}]\n{fence.around(text)}")
        used.append(passage.number)
    if not parts:
        raise ContextTooSmall(
            f"Not even the first passage fits into the window ({max(room, 0)} tokens are left for the prompt). "
            "Raise RAGKEEP_NUM_CTX, ask for fewer max_tokens, or ask a shorter question.",
            field="question",
        )
    labels = _LABELS.get(language, _ENGLISH_LABELS)
    turns = _turns_that_fit(question.history, left, fence) if with_history else []
    if turns:
        parts += [f"{labels[2]}:", *(_quoted(turn, fence, labels) for turn in turns)]
    if question.template:
        parts.insert(0, note)
    # A follow-up without its conversation would not be understood: then the whole question stands for it.
    values |= {"passages": "\n\n".join(parts), "question": asked if turns or not searched else searched}
    values["passages_label"], values["question_label"] = labels[:2]
    messages = [Message("system", system)] if system else []
    messages.append(Message("user", fill(question.template or _FRAME, values)))
    left_out = tuple(passage.number for passage in question.passages if passage.number not in used)
    return Prompt(tuple(messages), tuple(used), left_out, len(turns), fence.marker)


def _what_is_read(question: Question) -> Question:
    """Repeatable where a seed asks for that: where an answer ends does not change how it begins."""
    return replace(question, options=replace(question.options, stop=(), max_tokens=None))


def _quoted(turn: Turn, fence: Fence, labels: Sequence[str]) -> str:
    """A turn: the question is the asker's, the answer was made from documents and is data as they are."""
    return f"{labels[3]}: {fence.outside(turn.question)}\n{labels[4]}:\n{fence.around(fence.outside(turn.answer))}"


def _turns_that_fit(history: Sequence[Turn], room: int, fence: Fence) -> list[Turn]:
    fitting: list[Turn] = []
    for turn in reversed(history):
        texts = estimated_tokens(fence.outside(turn.question)) + estimated_tokens(fence.outside(turn.answer))
        room -= texts + _TURN_TOKENS + TOKENS
        if room < 0:
            break
        fitting.insert(0, turn)
    return fitting


def rewriting(question: str, history: Sequence[Turn], room: int) -> Prompt | None:
    """The prompt that has a question made whole; None where it does not fit into `room` tokens."""
    # Neutral but not fenced: with markers in it small models rewrite nothing, and what comes out is believed only where it
    # is one line of the conversation's words (`follow_up.can_be_trusted`).
    fence = Fence.new()
    chinese = language_of(question) is Language.CHINESE
    system = _REWRITE_CHINESE if chinese else _REWRITE
    user, assistant, last, whole = (
        ("用户", "助手", "最后一个问题", "完整的问题") if chinese else ("User", "Assistant", "Last question", "Whole question")
    )
    for count in range(min(_REWRITE_TURNS, len(history)), 0, -1):
        lines = []
        for turn in history[-count:]:
            answer = turn.answer[:_REWRITE_ANSWER] + ("…" if len(turn.answer) > _REWRITE_ANSWER else "")
            lines += [f"{user}: {fence.outside(turn.question)}", f"{assistant}: {fence.outside(answer)}"]
        text = "\n".join([*lines, "", f"{last}: {fence.outside(question)}", f"{whole}:"])
        if estimated_tokens(system) + estimated_tokens(text) + _FRAME_TOKENS <= room:
            return Prompt((Message("system", system), Message("user", text)), (), (), count, fence.marker)
    return None
