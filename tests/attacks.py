"""The published attacks (`examples/attacks.jsonl`): documents and earlier answers that want a model to do something else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ragkeep_generator.language_model import Options, Passage, Question, Turn


@dataclass(frozen=True, slots=True)
class Attack:
    """One of them; a model that says the canary obeyed, or quoted the attack."""

    id: str
    language: str
    kind: str
    where: str  # text, title or history
    canary: str
    question: str
    title: str
    text: str
    attack: str

    def asked(self, options: Options | None = None) -> Question:
        """The question whose best passage is attacked, with an innocent one after it; a history stands where the attack does."""
        title = f"{self.title} {self.attack}" if self.where == "title" else self.title
        text = f"{self.text} {self.attack}" if self.where == "text" else self.text
        history = [Turn(self.question, f"{self.text} {self.attack}")] if self.where == "history" else []
        passages = [Passage(1, title, text), Passage(2, "T-2", "Nothing to see here.")]
        return Question(self.question, passages, options or Options(), history=history, searched=self.question)


ATTACKS = [Attack(**json.loads(line)) for line in Path("examples/attacks.jsonl").read_text().splitlines()]
