"""The syntax of filters as text, e.g. `category in (a, b) and not severity >= 3`, and its parser.

    expression  = all { "or" all }
    all         = one { "and" one }
    one         = "not" one | "(" expression ")" | condition
    condition   = field ("=" | "!=") value
                | field ("<" | "<=" | ">" | ">=") value           numbers and timestamps
                | field ["not"] "in" "(" value { "," value } ")"   one of these
                | field ["not"] "in" "[" value "," value (")" | "]")  from … to before …, or up to …
    field       = a name, in quotes where it is a word of the syntax
    value       = text in "…" or '…' with \\" \\' \\\\ \\n \\t, or bare text up to and, or, ")" (in lists also ",")

Parsing knows no types; `filter_expression.filter_of` gives them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_CHARACTERS, MAX_PARENTHESES = 16_000, 32
WORDS = ("and", "or", "not", "in")
_FIELD = re.compile(r"[^\s=!<>()\[\],\"']+")
_OPERATOR = re.compile(r"!=|<=|>=|=|<|>")
_ESCAPES = {"n": "\n", "t": "\t"}


class FilterSyntaxError(ValueError):
    """What is wrong, and where: `position` counts characters from 0."""

    def __init__(self, text: str, position: int, message: str) -> None:
        super().__init__(message)
        self.text = text
        self.position = position
        self.message = message

    def shown(self) -> str:
        """The message over the text with a mark under the place."""
        from ragkeep_client.output import plain

        begin, end = max(0, self.position - 60), self.position + 20
        head, tail = plain(self.text[begin : self.position]), plain(self.text[self.position : end])
        line = (head + tail).replace("\n", " ").replace("\t", " ")
        return f"at character {self.position + 1}: {self.message}\n  {line}\n  {' ' * _width(head)}^"


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


@dataclass(frozen=True, slots=True)
class Word:
    """A value as it was written."""

    text: str
    position: int


@dataclass(frozen=True, slots=True)
class Condition:
    """A field, what is asked of it, and the values."""

    field: str
    operator: str  # = != < <= > >= in [) []
    values: tuple[Word, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Joined:
    """Several that all hold ("and"), or of which one does ("or")."""

    word: str
    parts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Negated:
    """One that does not hold."""

    part: Tree


Tree = Condition | Joined | Negated


def parse(text: str) -> Tree:
    """The expression's tree. Raises FilterSyntaxError."""
    if len(text) > MAX_CHARACTERS:
        raise FilterSyntaxError(text, MAX_CHARACTERS, f"a filter has at most {MAX_CHARACTERS} characters.")
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def whole(self) -> Tree:
        tree = self.joined("or", lambda: self.joined("and", self.one))
        self.blanks()
        if self.at < len(self.text):
            raise self.error("“and”, “or” or the end was expected here; a value with such characters goes in quotes.")
        return tree

    def joined(self, word: str, part: Callable[[], Tree]) -> Tree:
        parts = [part()]
        while self.takes_word(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Joined(word, tuple(parts))

    def one(self) -> Tree:
        self.depth += 1
        if self.depth > MAX_PARENTHESES:
            raise self.error(f"more than {MAX_PARENTHESES} parentheses and negations inside each other.")
        try:
            if self.takes_word("not"):
                return Negated(self.one())
            if self.takes("("):
                tree = self.joined("or", lambda: self.joined("and", self.one))
                self.expects(")")
                return tree
            return self.condition()
        finally:
            self.depth -= 1

    def condition(self) -> Tree:
        self.blanks()
        position = self.at
        field = self.field()
        self.blanks()
        if self.takes_word("not"):
            if not self.takes_word("in"):
                raise self.error("“in” was expected after “not”.")
            return Negated(self.members(field, position))
        if self.takes_word("in"):
            return self.members(field, position)
        operator = _OPERATOR.match(self.text, self.at)
        if operator is None:
            raise self.error("=, !=, <, <=, >, >= or “in” was expected after the field, e.g. category=VPN.")
        self.at = operator.end()
        return Condition(field, operator[0], (self.value(in_list=False),), position)

    def members(self, field: str, position: int) -> Condition:
        if self.takes("["):
            low = self.value(in_list=True)
            self.expects(",")
            high = self.value(in_list=True)
            if self.takes(")"):
                return Condition(field, "[)", (low, high), position)
            self.expects("]", "“)” (before this) or “]” (up to this) was expected.")
            return Condition(field, "[]", (low, high), position)
        self.expects("(", "“(” was expected, e.g. category in (a, b), or “[” for a range.")
        values = [self.value(in_list=True)]
        while self.takes(","):
            values.append(self.value(in_list=True))
        self.expects(")", "“,” or “)” was expected.")
        return Condition(field, "in", tuple(values), position)

    def field(self) -> str:
        if self.at < len(self.text) and self.text[self.at] in "\"'":
            return self.quoted()
        found = _FIELD.match(self.text, self.at)
        if found is None or found[0].lower() in WORDS:
            raise self.error("a field was expected here, as in field=value.")
        self.at = found.end()
        return found[0]

    def value(self, *, in_list: bool) -> Word:
        self.blanks()
        position = self.at
        if self.at < len(self.text) and self.text[self.at] in "\"'":
            return Word(self.quoted(), position)
        opened = 0
        while self.at < len(self.text):
            character = self.text[self.at]
            if opened == 0 and (character == ")" or (in_list and character in ",]")):
                break
            if opened == 0 and character.isspace() and not in_list and self.word_follows():
                break
            opened += (character == "(") - (character == ")")
            self.at += 1
        found = self.text[position : self.at].rstrip()
        if not found:
            self.at = position
            raise self.error('a value was expected here; an empty one is written "".')
        return Word(found, position)

    def word_follows(self) -> bool:
        """Whether the blanks here lead to and, or."""
        return re.compile(r"\s+(?:and|or)(?=[\s(]|$)", re.IGNORECASE).match(self.text, self.at) is not None

    def quoted(self) -> str:
        quote, begin = self.text[self.at], self.at
        parts: list[str] = []
        at = begin + 1
        while at < len(self.text):
            character = self.text[at]
            if character == quote:
                self.at = at + 1
                return "".join(parts)
            if character == "\\" and at + 1 < len(self.text):
                at += 1
                character = _ESCAPES.get(self.text[at], self.text[at])
            parts.append(character)
            at += 1
        self.at = begin
        raise self.error("this quote does not end.")

    def blanks(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def takes(self, mark: str) -> bool:
        self.blanks()
        if self.text.startswith(mark, self.at):
            self.at += len(mark)
            return True
        return False

    def takes_word(self, word: str) -> bool:
        """The word, standing alone: `not=1` is a condition on a field of that name only in quotes."""
        self.blanks()
        after = self.at + len(word)
        if self.text[self.at : after].lower() != word:
            return False
        if after < len(self.text) and not (self.text[after].isspace() or self.text[after] in "([\"'"):
            return False
        self.at = after
        return True

    def expects(self, mark: str, message: str = "") -> None:
        if not self.takes(mark):
            raise self.error(message or f"“{mark}” was expected here.")

    def error(self, message: str) -> FilterSyntaxError:
        return FilterSyntaxError(self.text, self.at, message)
