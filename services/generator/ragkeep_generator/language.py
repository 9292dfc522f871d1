"""The question's language, Chinese or English, and what is said in it when there is no answer."""

from __future__ import annotations

import re
from enum import Enum

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")


class Language(Enum):
    """A language that answers are written in."""

    CHINESE = "zh"
    ENGLISH = "en"


NOT_FOUND = {
    Language.CHINESE: "很抱歉，现有文档中没有找到能回答这个问题的内容。您可以换一种说法再问一次，或联系人工支持。",
    Language.ENGLISH: (
        "I am sorry, the answer to this question is not in the documents. You could ask it in other words, or contact support."
    ),
}


def language_of(text: str) -> Language:
    """Chinese where the text has Han characters (product names and error codes in it are English anyway), else English."""
    return Language.CHINESE if _HAN.search(text) else Language.ENGLISH
