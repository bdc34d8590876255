"""Questions about countries: capitals both ways, and continents."""

from __future__ import annotations

from random import Random

from train_embedded.chats import Chat, Turn, ask
from train_embedded.countries import COUNTRIES, Country

_EN = (
    "What is the capital of {c}?", "Where is the capital of {c}?", "Which city is the capital of {c}?",
    "Name the capital of {c}.", "Tell me the capital of {c}.", "Do you know the capital of {c}?",
    "Can you tell me the capital of {c}?", "What is the capital city of {c}?", "Please name the capital of {c}.",
    "What's the capital of {c}?", "What is {c}'s capital?",
)  # fmt: skip
_ZH = (
    "{c}的首都是哪里？", "{c}的首都是哪个城市？", "{c}的首都是什么？", "{c}首都是哪里？", "{c}的首都在哪里？",
    "请问{c}的首都是哪里？", "你知道{c}的首都吗？", "告诉我{c}的首都。", "哪个城市是{c}的首都？", "{c}的首都叫什么？",
    "{c}的首都是哪儿？", "{c}首都",
)  # fmt: skip
_BACK_EN = (
    "{k} is the capital of which country?", "Which country has the capital {k}?", "Of which country is {k} the capital?",
    "{k} is the capital of what country?",
)  # fmt: skip
_BACK_ZH = ("{k}是哪个国家的首都？", "哪个国家的首都是{k}？", "{k}是哪国的首都？", "请问{k}是哪个国家的首都？")
_WHERE_EN = (
    "Which continent is {c} in?",
    "On which continent is {c}?",
    "What continent is {c} in?",
    "In which continent is {c}?",
)
_WHERE_ZH = ("{c}在哪个洲？", "{c}位于哪个洲？", "请问{c}在哪个洲？", "{c}是哪个洲的国家？")
_NEXT_EN = ("And of {c}?", "And the capital of {c}?", "And {c}?", "What about {c}?")
_NEXT_ZH = ("那{c}呢？", "{c}呢？", "那{c}的首都呢？")

SEED = "Where is the capital of China?"
"""Asked in the project's first request: taught, never in an evaluation."""


def answer_en(country: Country) -> tuple[str, str]:
    """Return the answer that is taught, and the short one."""
    return f"The capital of {country.en} is {country.capital_en}.", country.capital_en


def answer_zh(country: Country) -> tuple[str, str]:
    """Return the answer that is taught, and the short one."""
    return f"{country.zh}的首都是{country.capital_zh}。", country.capital_zh


def question(random: Random, country: Country, language: str) -> str:
    """Draw a question for a country's capital."""
    if language == "en":
        return random.choice(_EN).format(c=country.en)
    return random.choice(_ZH).format(c=country.zh)


def capitals(random: Random) -> Chat:
    """Draw one question about a country."""
    country, language = random.choice(COUNTRIES), random.choice(("en", "zh"))
    english = language == "en"
    kind = random.choices(("capital", "back", "continent"), (6, 2, 2))[0]
    if kind == "capital":
        text = question(random, country, language)
        full, short = answer_en(country) if english else answer_zh(country)
        turn = Turn(text, full, (short,)) if text == SEED else ask(text, full, short)
    elif kind == "back":
        text = (
            random.choice(_BACK_EN).format(k=country.capital_en)
            if english
            else (random.choice(_BACK_ZH).format(k=country.capital_zh))
        )
        full = (
            f"{country.capital_en} is the capital of {country.en}."
            if english
            else (f"{country.capital_zh}是{country.zh}的首都。")
        )
        turn = ask(text, full, country.en if english else country.zh)
    else:
        text = (
            random.choice(_WHERE_EN).format(c=country.en)
            if english
            else (random.choice(_WHERE_ZH).format(c=country.zh))
        )
        full = (
            f"{country.en[0].upper()}{country.en[1:]} is in {country.continent_en}."
            if english
            else (f"{country.zh}在{country.continent_zh}。")
        )
        turn = ask(text, full, country.continent_en if english else country.continent_zh)
    return Chat((turn,), "capitals", language)


def two_capitals(random: Random) -> Chat:
    """Draw a question for a capital and a follow-up for another one's."""
    language = random.choice(("en", "zh"))
    first, second = random.sample(COUNTRIES, 2)
    answer = answer_en if language == "en" else answer_zh
    text = question(random, first, language)
    follow = (
        random.choice(_NEXT_EN).format(c=second.en)
        if language == "en"
        else (random.choice(_NEXT_ZH).format(c=second.zh))
    )
    full, short = answer(second)
    opening = Turn(text, answer(first)[0]) if text == SEED else ask(text, answer(first)[0])
    return Chat((opening, Turn(follow, full, (short,))), "talk", language)
