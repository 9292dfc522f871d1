"""Languages that answers are written in: which one a question is in, and what is said in it when there is no answer."""

from __future__ import annotations

import re
from enum import Enum

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
# A Chinese text may hold a の for decoration: Japanese has more of it.
_LEAST_KANA = 0.15
_LONGEST_SEARCHED = 200


class Language(Enum):
    """A language that answers are written in, by its code. The first two are recognised best: the prompt is in them."""

    CHINESE = "zh"
    ENGLISH = "en"
    JAPANESE = "ja"
    KOREAN = "ko"
    GERMAN = "de"
    FRENCH = "fr"
    SPANISH = "es"


# What is said where the documents do not answer: the sentence itself, what was looked for, what can be done.
_NO = {
    Language.CHINESE: (
        "很抱歉，现有文档中没有找到能回答这个问题的内容。",
        "查找的是：“{searched}”。",
        "您可以换一种说法再问一次，或联系人工支持。",
    ),
    Language.ENGLISH: (
        "I am sorry, the answer to this question is not in the documents.",
        " What was looked for: “{searched}”.",
        " You could ask it in other words, or contact support.",
    ),
    Language.JAPANESE: (
        "申し訳ありませんが、この質問への答えは文書の中に見つかりませんでした。",
        "検索した内容：「{searched}」。",
        "別の言い方で質問するか、サポートにお問い合わせください。",
    ),
    Language.KOREAN: (
        "죄송합니다. 이 질문에 대한 답을 문서에서 찾지 못했습니다.",
        " 찾은 내용: “{searched}”.",
        " 다른 표현으로 다시 질문하시거나 지원팀에 문의해 주세요.",
    ),
    Language.GERMAN: (
        "Leider steht die Antwort auf diese Frage nicht in den Dokumenten.",
        " Gesucht wurde: „{searched}“.",
        " Sie können anders fragen oder sich an den Support wenden.",
    ),
    Language.FRENCH: (
        "Désolé, la réponse à cette question ne se trouve pas dans les documents.",
        " Recherche effectuée : « {searched} ».",
        " Vous pouvez reformuler la question ou contacter le support.",
    ),
    Language.SPANISH: (
        "Lo siento, la respuesta a esta pregunta no está en los documentos.",
        " Se buscó: «{searched}».",
        " Puede preguntarlo de otra forma o contactar con soporte.",
    ),
}


def language_of(text: str) -> Language:
    """Korean by Hangul, Japanese by kana, Chinese by Han (product names and error codes in it are English anyway), else
    English: languages in Latin letters are not told apart, they have to be named."""
    if _HANGUL.search(text):
        return Language.KOREAN
    kana, han = len(_KANA.findall(text)), len(_HAN.findall(text))
    if kana and kana >= _LEAST_KANA * (kana + han):
        return Language.JAPANESE
    return Language.CHINESE if han else Language.ENGLISH


def no_answer(language: Language) -> str:
    """The sentence that says that the documents do not answer."""
    return _NO[language][0]


def not_found(language: Language, searched: str) -> str:
    """The honest no: the sentence, what was looked for, what can be done."""
    sentence, looked_for, advice = _NO[language]
    shown = " ".join(searched.split())
    if len(shown) > _LONGEST_SEARCHED:
        shown = shown[: _LONGEST_SEARCHED - 1] + "…"
    return sentence + looked_for.replace("{searched}", shown) + advice


def says_no(answer: str) -> bool:
    """Whether a model's answer holds the sentence that the prompt offers it for an honest no, however it apologizes."""
    # What comes after the first comma or stop is the statement.
    statements = (re.split(r"[,，、]\s*|\.\s", sentence, maxsplit=1)[-1] for sentence, _, _ in _NO.values())
    return any(_bare(statement) in _bare(answer) for statement in statements)


def _bare(text: str) -> str:
    return re.sub(r"\W+", " ", text.casefold()).strip()
