"""An answer as people see it grow and as machines read it: events in, lines out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ragkeep_client.output import Output, plain

if TYPE_CHECKING:
    from ragkeep_client.events import Event, Evidence, Source, Usage

_STAGES = {"rewriting": "reading the conversation …", "retrieving": "looking …", "generating": "writing …"}

# Of a shorter one a letter less would be found in too many words.
_SHORTEST_STEM = 4


class AnswerView:
    """Shows the events of one answer as they come, and keeps what is asked for afterwards."""

    def __init__(self, output: Output, question: str, *, explain: bool = False, mode: str = "hybrid") -> None:
        self.sources: dict[int, Source] = {}
        self.text = ""
        self.ended = False
        self._output = output
        self._console = output.console
        self._question = self._searched = question
        self._explain = explain
        self._mode = mode
        self._evidence: Evidence | None = None
        self._cited: dict[int, None] = {}
        self._in_line = False
        self._spinner = output.notes.status("")

    def take(self, event: Event) -> None:
        """Shows one."""
        from ragkeep_client.events import Citation, Delta, Done, Rewritten, Sources, Status, Usage
        from ragkeep_client.present import evidence_line, explanation, source_facts, source_line

        kind = type(event).__name__.lower()
        self._spinner.stop()
        if isinstance(event, Sources):
            self.sources = {source.number: source for source in event.sources}
            self._evidence = event.evidence
            self._output.line(kind, [source_facts(source) for source in event.sources])
            self._output.line("evidence", asdict(event.evidence))
            for source in event.sources:
                self._console.print(source_line(source))
                if self._explain:
                    self._console.print(explanation(source, self._mode), style="dim")
            if self._explain:
                self._console.print(evidence_line(event.evidence), style="dim")
            self._console.print()
            return
        self._output.line(kind, asdict(event))
        if isinstance(event, Status) and self._output.notes.is_terminal:
            self._spinner.update(_STAGES.get(event.stage, "…"))
            self._spinner.start()
        elif isinstance(event, Rewritten):
            self._searched = event.question
            if event.question.strip() != self._question.strip():
                self._console.print(f"Searched for: {plain(event.question)}", style="dim")
        elif isinstance(event, Delta):
            self.text += event.text
            self._console.print(plain(event.text), end="", soft_wrap=True)
            self._console.file.flush()
            self._in_line = True
        elif isinstance(event, Citation):
            self._cited[event.number] = None
        elif isinstance(event, Usage):
            self._usage(event)
        elif isinstance(event, Done):
            self.ended = True
            self._done(event.finish, event.model, event.quoted)

    def end_line(self) -> None:
        """Ends the answer's last line, where it has not ended."""
        self._spinner.stop()
        if self._in_line:
            self._console.print()
            self._in_line = False

    def _usage(self, usage: Usage) -> None:
        from ragkeep_client.present import budget_line

        if usage.left_out:
            self.end_line()
            numbers = ", ".join(f"[{number}]" for number in usage.left_out)
            self._console.print(
                f"Not read, as the model's window of {usage.context_tokens} tokens was full: {numbers}. A larger "
                "RAGKEEP_NUM_CTX, a smaller --max-tokens or --limit makes room.",
                style="yellow",
            )
        if self._explain and usage.context_tokens:
            self.end_line()
            self._console.print(budget_line(usage), style="dim")

    def _done(self, finish: str, model: str, quoted: bool) -> None:
        self.end_line()
        if self._cited:
            self._console.print()
        for number in self._cited:
            source = self.sources.get(number)
            if source is not None:
                self._console.print(f"[{number}] {plain(source.document_id)} {plain(source.title)}", style="cyan")
        if finish == "no_evidence":
            if not self.text.strip():
                self._console.print("The answer is not in the documents.", style="yellow")  # else the answer says so itself
            if self._evidence is not None and not self._evidence.suffices:
                self._looked_for(self._evidence)
        elif finish == "length":
            self._console.print("The answer is cut: --max-tokens or the model's window was reached.", style="yellow")
        if quoted and finish != "no_evidence":
            self._console.print("Quoted from the documents, no language model.", style="dim")
        elif not quoted and finish != "no_evidence":
            self._console.print(f"Written by {plain(model)}.", style="dim")

    def _looked_for(self, evidence: Evidence) -> None:
        """The words, as they stand in what was searched for."""
        words = [token for token in evidence.tokens if token.isascii() or len(token) > 1] or list(evidence.tokens)
        if not words:
            return
        missing = set(evidence.missing)
        wanted, absent = (whole_words(self._searched, some) for some in (words, [one for one in words if one in missing]))
        self._console.print(plain(f"Looked for: {', '.join(wanted[:40])}"), style="dim")
        if absent:
            self._console.print(plain(f"In no passage found: {', '.join(absent[:40])}"), style="dim")


def whole_words(text: str, tokens: Sequence[str]) -> list[str]:
    """The tokens as they were asked for: pairs of characters that overlap in the text are one word, and a stem is the word
    that it was made of. Those that do not stand in the text are as they are."""
    asked = unicodedata.normalize("NFKC", text)
    # Folding makes more of a letter than one, as of ß: each knows where it came from.
    folded, origin = "", []
    for place, letter in enumerate(asked):
        folded += letter.casefold()
        origin += [place] * len(letter.casefold())
    spans: set[tuple[int, int]] = set()
    elsewhere: list[str] = []
    for token in tokens:
        found = _places(folded, token, tokens)
        spans |= set(found)
        if not found:
            elsewhere.append(token)
    words: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if words and begin < words[-1][1]:
            words[-1] = words[-1][0], max(end, words[-1][1])
        else:
            words.append((begin, end))
    shown = [asked[origin[begin] : origin[end - 1] + 1] for begin, end in words]
    first = {word.casefold(): word for word in reversed(shown)}
    return [word for word in dict.fromkeys(shown) if first[word.casefold()] == word] + elsewhere


def _places(folded: str, token: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Where a token, or the word of which it is the stem, stands."""
    escaped = re.escape(token)
    if not token.isascii():
        # Overlapping ones too.
        return [(one.start(), one.start() + len(token)) for one in re.finditer(f"(?={escaped})", folded)]
    whole = [one.span() for one in re.finditer(rf"(?<![0-9a-z]){escaped}(?![0-9a-z])", folded)]
    if whole:
        return whole
    # A stem's last letter may be another than the word's: nearbi of nearby, have of having.
    longer = [one.span() for one in re.finditer(rf"(?<![0-9a-z]){escaped}[a-z]+(?![0-9a-z])", folded)]
    if longer or len(token) < _SHORTEST_STEM:
        return longer
    others = re.finditer(rf"(?<![0-9a-z]){re.escape(token[:-1])}[a-z]+(?![0-9a-z])", folded)
    return [one.span() for one in others if one.group() not in tokens]
