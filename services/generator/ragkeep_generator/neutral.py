"""Text of others made fit to be quoted to a model: it stays readable, and nothing in it acts.

A model's chat format is written with special tokens, and an engine reads them wherever they stand: `<|im_end|>` inside a
document would end our message. So a space goes after the opening bracket of what is such a token or looks like one; nothing
visible is taken away. What nobody sees (zero-width and bidi controls, tag characters, variation selectors) is left out first,
so that it cannot hide a token.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# They join and part letters of Indic, Persian and the like, and emoji: between those they stay, beside any other they hide.
_JOINER = re.compile("(?<![^\x00-\u02ff\u200c\u200d])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\u02ff\u200c\u200d])")
_NAMES = (
    r"s|bos|eos|pad|unk|mask|sep|cls|eod|eot|AI|用户|think|thinking|tool_calls?|tool_response|tool_outputs?|function_calls?"
    r"|start_of_turn|end_of_turn|start_of_image|end_of_image|image|image_soft_token|video|audio|box|ref|quad|fim_[a-z]+"
    r"|unused_?\d+|reserved_\d+|extra_id_\d+|0x[0-9a-f]{2}"
)
_SQUARE = (
    r"INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|IMG|IMG_BREAK|IMG_END|THINK|PREFIX|MIDDLE|SUFFIX"
    r"|gMASK|sMASK|CLS|SEP|PAD|UNK|MASK|BOS|EOS|AUDIO|BEGIN_AUDIO|ARGS|CALL_ID|SYS"
)
# The last one looks like our own marker (`fence.py`).
_OPENING = re.compile(
    rf"<(?=\||/?(?:{_NAMES})\s*>|</?SYS>>|/?[a-z]{{16,}}>)|\[(?=/?(?:{_SQUARE})\])",
    re.IGNORECASE,
)
# Letters and brackets that look like those of the tokens; compatibility forms (full width, mathematical) fold by themselves.
_LOOKS_LIKE = str.maketrans(
    "‹〈⟨❮❰˂ᐸ⁄∕〔【∣ǀ￨│┃︱АВЕЅІЈКМНОРСТХУаеіјорсухѕԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧοｌı",
    "<<<<<<<//[[||||||ABESIJKMHOPCTXYaeijopcyxsdqwABEZHIKMNOPTYXoli",
)


def neutral(text: str) -> str:
    """The text without what nobody sees, and with a space after the bracket of whatever a model could take for a token."""
    text = _LINE_ENDS.sub("\n", text)
    text = _JOINER.sub("", _INVISIBLE.sub("", text))
    opening = [match.end() for match in _OPENING.finditer(folded(text))]
    if not opening:
        return text
    cuts = [0, *opening, len(text)]
    return " ".join(text[begin:end] for begin, end in pairwise(cuts))


def folded(text: str) -> str:
    """The text in the letters that it looks like, character by character: places in it are places in the text."""
    if text.isascii():
        return text
    return "".join(map(_fold, text)).translate(_LOOKS_LIKE)


def _fold(character: str) -> str:
    same = unicodedata.normalize("NFKC", character)
    return same if len(same) == 1 else character
