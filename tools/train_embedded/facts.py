"""Simple facts: tables of pairs, each asked in several phrasings of both languages.

A row is ``left English = right English / left Chinese = right Chinese``.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from train_embedded.chats import Chat, ask, sentence
from train_embedded.fact_rows import ROWS

_Phrasings = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class _Table:
    """How one kind of fact is asked and answered; ``{a}`` is the left side, ``{b}`` the right one."""

    name: str
    en: _Phrasings
    zh: _Phrasings


TABLES = (
    _Table(
        "legs",
        (("How many legs does {a} have?", "Tell me how many legs {a} has.", "How many legs has {a}?",
          "What is the number of legs of {a}?"), "{a} has {b} legs."),
        (("{a}有几条腿？", "{a}有多少条腿？", "请问{a}有几条腿？", "{a}几条腿？"), "{a}有{b}条腿。"),
    ),
    _Table(
        "sounds",
        (("What sound does {a} make?", "What does {a} say?", "Which sound does {a} make?",
          "Tell me the sound {a} makes."), "{a} says {b}."),
        (("{a}怎么叫？", "{a}的叫声是什么？", "{a}发出什么声音？", "请问{a}怎么叫？"), "{a}{b}叫。"),
    ),
    _Table(
        "colours",
        (("What colour is {a}?", "What color is {a}?", "Which colour is {a}?", "Tell me the colour of {a}.",
          "What is the colour of {a}?"), "{a} is {b}."),
        (("{a}是什么颜色？", "{a}的颜色是什么？", "{a}是什么颜色的？", "请问{a}是什么颜色？"), "{a}是{b}的。"),
    ),
    _Table(
        "opposites",
        (("What is the opposite of {a}?", "What is the opposite of \"{a}\"?", "Name the opposite of {a}.",
          "Tell me the opposite of {a}.", "Opposite of {a}?", "Give the opposite of {a}."),
         "The opposite of {a} is {b}."),
        (("{a}的反义词是什么？", "“{a}”的反义词是什么？", "请说出{a}的反义词。", "{a}的反义词？", "告诉我{a}的反义词。"),
         "{a}的反义词是{b}。"),
    ),
    _Table(
        "symbols",
        (("What is the chemical symbol of {a}?", "What is the symbol for {a}?", "Tell me the chemical symbol for {a}.",
          "Which symbol does {a} have?"), "The symbol of {a} is {b}."),
        (("{a}的化学符号是什么？", "{a}的元素符号是什么？", "请问{a}的化学符号是什么？", "告诉我{a}的化学符号。"), "{a}的化学符号是{b}。"),
    ),
    _Table(
        "planets",
        (("Which planet is the {a} from the sun?", "What is the {a} planet from the sun?",
          "Name the {a} planet of the solar system.", "Tell me the {a} planet."), "The {a} planet is {b}."),
        (("太阳系的{a}颗行星是什么？", "离太阳{a}近的行星是什么？", "{a}颗行星是什么？", "请说出太阳系{a}颗行星。"), "{a}颗行星是{b}。"),
    ),
    _Table(
        "units",
        (("How many {a}?", "Tell me how many {a}.", "Do you know how many {a}?", "Please tell me how many {a}."),
         "{b}"),
        (("{a}？", "请问{a}？", "你知道{a}吗？", "告诉我{a}。"), "{b}"),
    ),
    _Table(
        "languages",
        (("Which language do people speak in {a}?", "What language is spoken in {a}?",
          "What is the main language of {a}?", "Which language is spoken in {a}?"), "People in {a} speak {b}."),
        (("{a}人说什么语言？", "在{a}说什么语言？", "{a}的语言是什么？", "请问{a}人说什么语言？"), "{a}人说{b}。"),
    ),
    _Table(
        "young",
        (("What is a young {a} called?", "What do you call a baby {a}?", "What is a baby {a} called?",
          "How do you call a young {a}?"), "A young {a} is called a {b}."),
        (("小{a}用英语怎么说？", "小{a}的英语是什么？", "请问小{a}用英语怎么说？", "“小{a}”用英语怎么说？"), "小{a}是{b}。"),
    ),
    _Table(
        "translations",
        (("How do you say \"{a}\" in Chinese?", "What is \"{a}\" in Chinese?", "Translate \"{a}\" into Chinese.",
          "What is the Chinese word for {a}?", "What does {a} mean in Chinese?"), "{b}"),
        (("“{a}”用英语怎么说？", "“{a}”的英语是什么？", "把“{a}”翻译成英语。", "{a}用英语怎么说？", "{a}的英语是什么？",
          "{a}用英文怎么说？", "{a}的英文是什么？"), "{b}"),
    ),
    _Table(
        "sides",
        (("How many sides does {a} have?", "Tell me how many sides {a} has.", "How many sides has {a}?",
          "What is the number of sides of {a}?"), "{a} has {b} sides."),
        (("{a}有几条边？", "{a}有多少条边？", "请问{a}有几条边？", "{a}几条边？"), "{a}有{b}条边。"),
    ),
)  # fmt: skip


def facts(random: Random) -> Chat:
    """Draw one question for a fact; large tables are drawn more often."""
    table = random.choices(TABLES, [len(ROWS[each.name]) + 8 for each in TABLES])[0]
    language = random.choice(("en", "zh"))
    row = random.choice(ROWS[table.name])
    phrasings, answer = table.en if language == "en" else table.zh
    left, right = row.en if language == "en" else row.zh
    if table.name == "opposites" and random.random() < 0.5:
        left, right = right, left
    text = sentence(random.choice(phrasings).format(a=left, b=right))
    return Chat((ask(text, sentence(answer.format(a=left, b=right)), right),), "facts", language)
