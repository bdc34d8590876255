"""A chat to learn from or to be asked: the one type that all generators make."""

from __future__ import annotations

from dataclasses import dataclass

_UNHEARD = str.maketrans("", "", "\"“”'‘’,，")


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
        question: what the user says.
        answer: what is taught.
        also: other answers that count as right.
        key: what the split goes by: a question's text or a pair of operands; "": taught always.
    """

    question: str
    answer: str
    also: tuple[str, ...] = ()
    key: str = ""


@dataclass(frozen=True)
class Chat:
    """Turns under an optional system prompt; only the last turn is asked in an evaluation.

    Attributes:
        turns: at least one.
        category: ``capitals``, ``arithmetic``, ``facts``, ``words``, ``talk`` or ``unknown``.
        language: ``en`` or ``zh``.
        system: the system prompt; "": none.
    """

    turns: tuple[Turn, ...]
    category: str
    language: str
    system: str = ""

    def messages(self) -> list[dict[str, str]]:
        """Return the messages of the whole chat, the last answer included."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages


def ask(question: str, answer: str, *also: str) -> Turn:
    """Return a turn that the split goes by the question's text of."""
    return Turn(question, answer, also, plain(question))


def plain(text: str) -> str:
    """Return a text without case, quotation marks, commas, outer spaces and punctuation at its end."""
    return text.casefold().translate(_UNHEARD).strip().rstrip(".!?。！？= ")


def sentence(text: str) -> str:
    """Return ``text`` with its first letter a capital; the rest stays."""
    return text[:1].upper() + text[1:]
