"""Text to tokens. Both stores index this stream and nothing else, so they agree, and stock engines find Chinese words.

Scripts without spaces become every character and every overlapping pair; words joined by . _ - @ + / : ' are kept whole and in
parts (`T-1042`, `0x8007.1`, addresses); English words are stemmed. No stop words.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import snowballstemmer

# Grows when the same text would give other tokens; an index keeps it and is refused by another analyzer.
VERSION = 1
FINGERPRINT = f"{VERSION}/unicode-{unicodedata.unidata_version}"
# Longer "words" (base64, hashes in logs) are indexed in parts only, and parts are cut to this.
MAX_TOKEN = 128

# Thai, Lao, Myanmar, Khmer, iteration marks, kana, Han, Hangul.
_RUN = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u1000-\u103f\u1780-\u17d3\u3005\u3007\u3040-\u30ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
)
_MARKS = "".join(re.escape(c) for c in map(chr, range(0x300, 0x1E000)) if unicodedata.category(c) in ("Mn", "Mc"))
_LETTER = rf"(?:(?![{_RUN}])(?:[^\W_]|[{_MARKS}]))"
_TOKEN = re.compile(rf"[{_RUN}]+|{_LETTER}+(?:[._\-@+/:'’]{_LETTER}+)*")
_JOINT = re.compile(r"[._\-@+/:'’]")
_IN_RUN = re.compile(f"[{_RUN}]")
# What a question says only because it is one. Final particles go only before punctuation or the end: 酒吧 stays.
_QUESTION_PHRASES = re.compile(
    "为什么|为何|什么样|什么时候|什么|怎么样|怎么办|怎么|怎样|如何|哪里|哪儿|哪些|哪个|哪一|是否|能否|可否|是不是|有没有|能不能|可不可以|"
    r"多少|请问|我们|[吗呢吧啊么](?=\W|$)"
)
# Carry no meaning of their own: they don't count when judging how much of a question a passage covers.
FUNCTION_WORDS = frozenset(
    (
        "a an and are as at be by can could did do does for from had has have how i if in is it me my no not of on or our "
        "should so that the their them there they this to up us was we were what when where which who whi will with "
        "would you your"
    ).split()
)


@lru_cache(65536)
def _stem(word: str) -> str:
    # A stemmer object holds state: one per word, never shared by threads. The cache makes that affordable.
    return str(snowballstemmer.stemmer("english").stemWord(word))


def tokens(text: str) -> list[str]:
    """The tokens of a text, in order, with repetitions."""
    found: list[str] = []
    for match in _TOKEN.finditer(unicodedata.normalize("NFKC", text).casefold()):
        word = match.group()
        if _IN_RUN.match(word):
            found.extend(word)
            found.extend(word[at : at + 2] for at in range(len(word) - 1))
            continue
        parts = _JOINT.split(word)
        if len(parts) > 1 and len(word) <= MAX_TOKEN:
            found.append(word)
        found.extend(_stem(part[:MAX_TOKEN]) if part.isascii() and part.isalpha() else part[:MAX_TOKEN] for part in parts)
    return found


def query_tokens(question: str) -> list[str]:
    """The distinct tokens of a question, in order; question phrases are left out unless nothing else is there."""
    normal = unicodedata.normalize("NFKC", question)
    return list(dict.fromkeys(tokens(_QUESTION_PHRASES.sub(" ", normal)) or tokens(normal)))
