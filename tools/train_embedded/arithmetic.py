"""Sums, differences and products, split by the pair of operands.

``+`` and ``-`` go by the unordered pair, each of its own: where 12 + 7 is held out so is 7 + 12. ``x`` has only
a hundred pairs, so there one order is held out and the mirrored one is taught.
"""

from __future__ import annotations

from random import Random

from train_embedded.chats import Chat, Turn
from train_embedded.split import PRODUCT

MOST = 99
MOST_FACTOR = 9

_EN = {
    "+": (
        "What is {a} + {b}?", "{a}+{b}=", "{a} + {b} =", "{a} plus {b}", "What is {a} plus {b}?",
        "How much is {a} + {b}?", "Calculate {a} + {b}.", "Add {a} and {b}.", "What is {a}+{b}?",
    ),
    "-": (
        "What is {a} - {b}?", "{a}-{b}=", "{a} - {b} =", "{a} minus {b}", "What is {a} minus {b}?",
        "How much is {a} - {b}?", "Calculate {a} - {b}.", "Subtract {b} from {a}.", "What is {a}-{b}?",
    ),
    "x": (
        "What is {a} x {b}?", "{a}x{b}=", "{a} * {b} =", "{a} times {b}", "What is {a} times {b}?",
        "How much is {a} × {b}?", "Calculate {a} * {b}.", "Multiply {a} by {b}.", "What is {a} * {b}?",
    ),
}  # fmt: skip
_ZH = {
    "+": (
        "{a}加{b}等于多少？",
        "{a}加{b}是多少？",
        "{a}+{b}等于几？",
        "计算{a}+{b}。",
        "请问{a}加{b}等于多少？",
    ),
    "-": (
        "{a}减{b}等于多少？",
        "{a}减{b}是多少？",
        "{a}-{b}等于几？",
        "计算{a}-{b}。",
        "请问{a}减{b}等于多少？",
    ),
    "x": (
        "{a}乘{b}等于多少？",
        "{a}乘以{b}是多少？",
        "{a}×{b}等于几？",
        "计算{a}×{b}。",
        "请问{a}乘{b}等于多少？",
    ),
}
_NEXT = {
    "+": {"en": ("Plus {b}?", "Now add {b}.", "And plus {b}?"), "zh": ("再加{b}呢？", "再加{b}是多少？")},
    "-": {
        "en": ("Minus {b}?", "Now subtract {b}.", "And minus {b}?"),
        "zh": ("再减{b}呢？", "再减{b}是多少？"),
    },
}


def result(operator: str, a: int, b: int) -> int:
    """Return a + b, a - b or a x b."""
    return a + b if operator == "+" else a - b if operator == "-" else a * b


def pair_key(operator: str, a: int, b: int) -> str:
    """Return what a pair of operands is split by; "" if it is taught always."""
    low, high = min(a, b), max(a, b)
    if operator != "x":
        return f"{operator} {low} {high}"
    asked = (low, high) if (low + high) % 4 < 2 else (high, low)  # each order of half of the pairs
    return f"{PRODUCT}{low} {high}" if low != high and (a, b) == asked else ""


def sums(random: Random) -> Chat:
    """Draw one sum, difference or product."""
    operator = random.choices("+-x", (10, 10, 3))[0]
    most = MOST_FACTOR if operator == "x" else MOST
    return phrased(random, operator, random.randint(0, most), random.randint(0, most))


def small_sums(random: Random) -> Chat:
    """Draw one sum or difference of small numbers: what the digits of large ones are made of."""
    most = random.choice((9, 20))
    return phrased(random, random.choice("+-"), random.randint(0, most), random.randint(0, most))


def phrased(random: Random, operator: str, a: int, b: int) -> Chat:
    """Draw a phrasing for given operands."""
    language = random.choices(("en", "zh"), (7, 4))[0]
    question = random.choice((_EN if language == "en" else _ZH)[operator]).format(a=a, b=b)
    turn = Turn(question, str(result(operator, a, b)), key=pair_key(operator, a, b))
    return Chat((turn,), "arithmetic", language)


def running_sum(random: Random) -> Chat:
    """Draw a sum and one more step from its result."""
    a, b = random.randint(0, 50), random.randint(0, 49)
    first = phrased(random, "+", a, b)
    operator, step = random.choice("+-"), random.randint(1, 9)
    if a + b + step > MOST:
        operator = "-"
    question = random.choice(_NEXT[operator][first.language]).format(b=step)
    value = result(operator, a + b, step)
    turn = Turn(question, str(value), key=pair_key(operator, a + b, step))
    return Chat((*first.turns, turn), "talk", first.language)
