"""What the suite plants, and no output may hold: `tests/leaks.py` searches for it when the session ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """Where something may be seen."""

    SECRET = "secret"  # in no output at all: keys, tokens, sealed values
    TEXT = "text"  # to who asked: documents, answers. In no log, trace or audit line
    QUESTION = "question"  # the same, but an audit line may hold its beginning


@dataclass(frozen=True, slots=True)
class Planted:
    """One of them, by a name that says what it is."""

    name: str
    text: str
    kind: Kind


DOCUMENT = "planted-document-4417 die Patientin heißt 王小明"
TITLE = "planted-title-3390 心电图"
QUESTION = "planted-question-6604 wie geht es 王小明"
EARLIER = "planted-earlier-answer-2258"
FILTER_VALUE = "planted-filter-value-9917"

# Those with `planted` in them are there for this alone; the others are what tests of all kinds import and ask.
PLANTED = [
    Planted("document text", DOCUMENT, Kind.TEXT),
    Planted("document title", TITLE, Kind.TEXT),
    Planted("question", QUESTION, Kind.QUESTION),
    Planted("earlier answer", EARLIER, Kind.TEXT),
    Planted("filter value", FILTER_VALUE, Kind.TEXT),
    Planted("sealed diagnosis", "planted-diagnosis-8731", Kind.SECRET),
    Planted("sealed PIN", "planted-pin-5527", Kind.SECRET),
    Planted("sealed salary", "918273645.125", Kind.SECRET),
    Planted("JWT secret", "a secret of at least thirty-two bytes", Kind.SECRET),
    Planted("solution of T-1001", "请用自助门户重置密码。", Kind.TEXT),
    Planted("solution of T-1042", "Set AssumeUDPEncapsulationContextOnSendRule to 2 and restart", Kind.TEXT),
    Planted("solution of T-1003", "在设备设置里取消“脱机使用打印机”", Kind.TEXT),
    Planted("solution of T-1004", "Remove the account, add the mailbox again and restart", Kind.TEXT),
    Planted("description in the sample", "休假两周回来，开机提示“密码已过期，必须更改”", Kind.TEXT),
    Planted("title in the sample", "Network socket in meeting room B204 has no link", Kind.TEXT),
    Planted("question about cake", "How do I bake a chocolate cake?", Kind.QUESTION),
    Planted("question about a printer", "打印机脱机了怎么办？", Kind.QUESTION),
]
