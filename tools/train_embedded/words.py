"""Tasks on words, lists, numbers, days and letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from train_embedded.chats import Chat, Turn, ask

DAYS_EN: tuple[str, ...] = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
DAYS_ZH = tuple(f"星期{each}" for each in "一二三四五六日")
MONTHS_EN: tuple[str, ...] = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
MONTHS_ZH: tuple[str, ...] = tuple(
    f"{each}月" for each in ("一", "二", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二")
)
LETTERS: tuple[str, ...] = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
NOUNS_EN = (
    "apple", "book", "tree", "house", "star", "dog", "cat", "fish", "bird", "flower", "river", "cloud", "egg",
    "car", "train", "table", "chair", "door", "hand", "lamp", "boat", "stone", "road", "shoe", "cup", "key",
    "garden", "window", "pencil", "bottle", "clock", "letter", "king", "horse", "cow", "ball", "map", "song",
    "island", "ring",
)  # fmt: skip
NOUNS_ZH = (
    "苹果", "书", "树", "房子", "星星", "狗", "猫", "鱼", "鸟", "花", "河", "云", "鸡蛋", "汽车", "火车", "桌子", "椅子",
    "门", "手", "灯", "船", "石头", "路", "鞋", "杯子", "钥匙", "花园", "窗户", "铅笔", "瓶子", "钟", "信", "国王", "马",
    "牛", "球", "地图", "歌", "岛", "戒指",
)  # fmt: skip
_IRREGULAR = {
    "fish": "fish", "box": "boxes", "bus": "buses", "glass": "glasses", "dish": "dishes", "city": "cities",
    "baby": "babies", "lady": "ladies", "man": "men", "woman": "women", "child": "children", "foot": "feet",
    "tooth": "teeth", "mouse": "mice", "sheep": "sheep", "leaf": "leaves", "knife": "knives", "wolf": "wolves",
}  # fmt: skip
_NUMBERS_EN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def _pick(random: Random, language: str, en: Sequence[str], zh: Sequence[str]) -> str:
    return random.choice(en if language == "en" else zh)


def count(random: Random, language: str) -> Turn:
    """Draw a request to count from 1."""
    most = random.randint(2, 20)
    text = _pick(
        random, language,
        ("Count to {n}.", "Count from 1 to {n}.", "Please count to {n}.", "Can you count to {n}?"),
        ("从1数到{n}。", "请数到{n}。", "数到{n}。", "请从1数到{n}。"),
    ).format(n=most)  # fmt: skip
    comma = ", " if language == "en" else "，"
    return ask(text, comma.join(map(str, range(1, most + 1))) + ("." if language == "en" else "。"))


def _list(random: Random, language: str) -> Turn:
    which = random.choice(("days", "months"))
    if language == "en":
        names = DAYS_EN if which == "days" else MONTHS_EN
        whole = "week" if which == "days" else "year"
        text = random.choice(("List the {w}.", "Name the {w} of the {p}.", "What are the {w} of the {p}?",
                              "List all {w}.", "Tell me the {w} of the {p}."))  # fmt: skip
        return Turn(text.format(w=which, p=whole), ", ".join(names) + ".")
    names, what = (DAYS_ZH, "一周的每一天") if which == "days" else (MONTHS_ZH, "一年的月份")
    text = random.choice(("列出{w}。", "请说出{w}。", "请列出{w}。", "告诉我{w}。")).format(w=what)
    return Turn(text, "，".join(names) + "。")


def _next(random: Random, language: str) -> Turn:
    kind = random.choice(("number", "number", "day", "month", "letter"))
    names: Sequence[str] = (
        tuple(map(str, range(100))) if kind == "number" else LETTERS if kind == "letter" else
        (DAYS_EN if kind == "day" else MONTHS_EN) if language == "en" else DAYS_ZH if kind == "day" else MONTHS_ZH
    )  # fmt: skip
    is_ring = kind in ("day", "month")
    step = random.choice((1, -1))
    at = random.randrange(len(names)) if is_ring else random.randrange(1, len(names) - 1)
    word = {"number": "数字", "letter": "字母", "day": "一天", "month": "月份"}[kind]
    if language == "en":
        text = random.choice(
            ("Which {k} comes {s} {n}?", "What comes {s} {n}?", "What {k} is {s} {n}?", "Which {k} is {s} {n}?",
             "Name the {k} {s} {n}.", "Tell me the {k} {s} {n}."),
        ).format(k=kind, s="after" if step > 0 else "before", n=names[at])  # fmt: skip
    else:
        text = random.choice(
            ("{n}的{s}一个{k}是什么？", "{n}{s}一个{k}是什么？", "请问{n}的{s}一个{k}是什么？", "告诉我{n}的{s}一个{k}。"),
        ).format(k=word, s="后" if step > 0 else "前", n=names[at]).replace("一个一天", "一天")  # fmt: skip
    return ask(text, names[(at + step) % len(names)])


def drawn(random: Random, language: str, number: int) -> list[str]:
    """Draw different nouns."""
    return random.sample(NOUNS_EN if language == "en" else NOUNS_ZH, number)


def _joined(items: Sequence[str], language: str) -> str:
    return (", " if language == "en" else "、").join(items)


def _end_of_list(random: Random, language: str) -> Turn:
    items, is_first = drawn(random, language, random.randint(2, 5)), random.random() < 0.5
    if language == "en":
        text = random.choice(("What is the {w} word of: {l}?", "Which word comes {w}: {l}?", "Name the {w} of: {l}.",
                              "Tell me the {w} item: {l}."))  # fmt: skip
        word = "first" if is_first else "last"
    else:
        text = random.choice(
            (
                "{l}，{w}一个词是什么？",
                "这些词里{w}一个是什么：{l}？",
                "说出{w}一个词：{l}。",
                "请告诉我{w}一个：{l}。",
            )
        )
        word = "第" if is_first else "最后"
    return ask(text.format(w=word, l=_joined(items, language)), items[0 if is_first else -1])


def _how_many(random: Random, language: str) -> Turn:
    items = drawn(random, language, random.randint(1, 6))
    text = _pick(
        random, language,
        ("How many words are there: {l}?", "How many items: {l}?", "Count the items: {l}.", "Count the words: {l}."),
        ("这里有几个词：{l}？", "有几个词：{l}？", "数一数有几个词：{l}。", "请数一数：{l}。"),
    )  # fmt: skip
    return ask(text.format(l=_joined(items, language)), str(len(items)))


def _largest(random: Random, language: str) -> Turn:
    return compared(random, language, random.sample(range(100), 3))


def compared(random: Random, language: str, numbers: Sequence[int]) -> Turn:
    """Draw a question for the largest or the smallest of given numbers."""
    is_largest = random.random() < 0.5
    text = _pick(
        random, language,
        ("Which is the {w}: {l}?", "What is the {w} number of {l}?", "Name the {w} of {l}.",
         "Tell me the {w} number: {l}."),
        ("{l}中最{w}的数是多少？", "哪个数最{w}：{l}？", "{l}里哪个最{w}？", "说出最{w}的数：{l}。"),
    )  # fmt: skip
    big, small = ("largest", "smallest") if language == "en" else ("大", "小")
    answer = str(max(numbers) if is_largest else min(numbers))
    return ask(
        text.format(w=big if is_largest else small, l=_joined(list(map(str, numbers)), language)), answer
    )


def _sort(random: Random, language: str) -> Turn:
    numbers = random.sample(range(10), 3)
    text = _pick(
        random, language,
        ("Sort these numbers: {l}.", "Sort {l}.", "Put in order: {l}.", "Please sort: {l}."),
        ("把{l}从小到大排列。", "从小到大排列：{l}。", "请给{l}排序。", "给这些数排序：{l}。"),
    )  # fmt: skip
    comma = ", " if language == "en" else "，"
    return ask(text.format(l=_joined(list(map(str, numbers)), language)), comma.join(map(str, sorted(numbers))))


def _repeat(random: Random, language: str) -> Turn:
    words = drawn(random, language, random.randint(1, 4))
    said = " ".join(words) if language == "en" else "".join(words)
    text = _pick(
        random, language,
        ("Repeat after me: {l}", "Say: {l}", "Please repeat: {l}", "Please say: {l}"),
        ("请跟我说：{l}", "跟我重复：{l}", "请重复：{l}", "请说：{l}"),
    )  # fmt: skip
    return ask(text.format(l=said), said)


def _plural(random: Random, _language: str) -> Turn:
    word = random.choice((*NOUNS_EN, *_IRREGULAR))
    text = random.choice(("What is the plural of {w}?", "Plural of {w}?", "Give the plural of {w}.",
                          "Tell me the plural of {w}.", "What is the plural of \"{w}\"?"))  # fmt: skip
    plural = _IRREGULAR.get(word, f"{word}s")
    return ask(text.format(w=word), f"The plural of {word} is {plural}.", plural)


def _spelled(random: Random, language: str) -> Turn:
    number = random.randint(0, 10)
    word = _NUMBERS_EN[number] if language == "en" else "零一二三四五六七八九十"[number]
    text = _pick(
        random, language,
        ("Write {n} as a word.", "What is {n} in words?", "Spell the number {n}.", "How do you write {n} in words?"),
        ("{n}用汉字怎么写？", "把{n}写成汉字。", "请用汉字写出{n}。", "数字{n}的汉字是什么？"),
    )  # fmt: skip
    return ask(text.format(n=number), word)


_TASKS: dict[Callable[[Random, str], Turn], int] = {
    count: 3, _list: 2, _next: 6, _end_of_list: 5, _how_many: 4, _largest: 6, _sort: 5, _repeat: 5, _plural: 4,
    _spelled: 1,
}  # fmt: skip


def words(random: Random) -> Chat:
    """Draw one task on words, lists or numbers."""
    task = random.choices(list(_TASKS), list(_TASKS.values()))[0]
    language = "en" if task is _plural else random.choice(("en", "zh"))
    return Chat((task(random, language),), "words", language)
