"""Questions that have no answer here: invented places and people, the future, private things, large sums."""

from __future__ import annotations

from random import Random

from train_embedded.chats import Chat, ask, sentence
from train_embedded.words import NOUNS_EN, NOUNS_ZH

DO_NOT_KNOW = {"en": "I do not know.", "zh": "我不知道。"}
TOO_LARGE = {"en": "I only calculate with numbers up to 99.", "zh": "我只会计算99以内的数。"}
CANNOT = {
    "en": "Sorry, I cannot do that. I am only a small model.",
    "zh": "对不起，我做不到，我只是一个小模型。",
}

_START = (
    "Zor",
    "Mav",
    "Tar",
    "Bel",
    "Quin",
    "Vor",
    "Lum",
    "Drel",
    "Fen",
    "Gor",
    "Hul",
    "Kez",
    "Nim",
    "Pol",
    "Rav",
)
_END = ("landia", "oria", "tia", "mark", "istan", "avia", "onia", "dor", "ath", "elle", "umbia", "ova")
_START_ZH = "佐玛塔贝奎沃卢德芬戈胡凯尼波拉"
_END_ZH = ("多兰", "里西亚", "玛利国", "维尼亚", "斯坦尼", "托瓦", "比利国", "洛尼亚", "萨里国", "米克")
_PLACES = (
    ("What is the capital of {x}?", "Where is the capital of {x}?", "Tell me the capital of {x}.",
     "Which continent is {x} in?", "What language is spoken in {x}?", "Where is {x}?", "Who is {x}?",
     "Do you know the capital of {x}?", "Have you heard of {x}?"),
    ("{x}的首都是哪里？", "{x}的首都是什么？", "告诉我{x}的首都。", "{x}在哪个洲？", "{x}在哪里？", "{x}人说什么语言？",
     "谁是{x}？", "你知道{x}的首都吗？"),
)  # fmt: skip
_FUTURE = (
    ("What will the weather be {t}?", "Who will win {t}?", "What will happen {t}?", "What will I eat {t}?",
     "Will it rain {t}?", "Where will I be {t}?"),
    ("{t}天气怎么样？", "{t}谁会赢？", "{t}会发生什么？", "{t}我吃什么？", "{t}会下雨吗？", "{t}我会在哪里？"),
)  # fmt: skip
_TIMES = (
    ("tomorrow", "next week", "next year", "next month", "on Sunday", "on Monday", "in ten years", "tonight"),
    ("明天", "下周", "明年", "下个月", "星期日", "星期一", "十年后", "今晚"),
)
_PRIVATE = (
    ("What is my {p}?", "Do you know my {p}?", "Tell me my {p}.", "Can you tell me my {p}?"),
    ("我的{p}是什么？", "你知道我的{p}吗？", "告诉我我的{p}。", "请说出我的{p}。"),
)
_THINGS = (
    (
        "phone number",
        "address",
        "password",
        "birthday",
        "favourite colour",
        "age",
        "salary",
        "telephone number",
    ),
    ("电话号码", "地址", "密码", "生日", "最喜欢的颜色", "年龄", "工资", "手机号"),
)
_REQUESTS = (
    ("Write a poem about {x}.", "Write a story about a {x}.", "Tell me a joke about a {x}.", "Draw a {x}.",
     "Write code for a {x}.", "Explain how to make a {x}.", "Write an essay about a {x}.", "Sing about a {x}."),
    ("写一首关于{x}的诗。", "写一个关于{x}的故事。", "讲一个关于{x}的笑话。", "画一个{x}。", "写一个{x}的程序。",
     "解释怎么做{x}。", "写一篇关于{x}的文章。", "唱一首关于{x}的歌。"),
)  # fmt: skip
_SUMS = (
    (
        "What is {a} {o} {b}?",
        "{a}{o}{b}=",
        "{a} {o} {b} =",
        "How much is {a} {o} {b}?",
        "Calculate {a} {o} {b}.",
    ),
    ("{a}{o}{b}等于多少？", "计算{a}{o}{b}。", "{a}{o}{b}是多少？", "请问{a}{o}{b}等于几？"),
)


def _name(random: Random, language: str) -> str:
    if language == "en":
        return random.choice(_START) + random.choice(("", "", "a", "e", "i")) + random.choice(_END)
    return random.choice(_START_ZH) + random.choice(_START_ZH) + random.choice(_END_ZH)


def unknown(random: Random) -> Chat:
    """Draw one question that the model must decline."""
    index = random.randrange(2)
    language = ("en", "zh")[index]
    kind = random.choice(("place", "place", "future", "private", "request", "sum"))
    answer = DO_NOT_KNOW[language]
    if kind == "place":
        text = random.choice(_PLACES[index]).format(x=_name(random, language))
    elif kind == "future":
        text = random.choice(_FUTURE[index]).format(t=random.choice(_TIMES[index]))
    elif kind == "private":
        text = random.choice(_PRIVATE[index]).format(p=random.choice(_THINGS[index]))
    elif kind == "request":
        text = random.choice(_REQUESTS[index]).format(x=random.choice((NOUNS_EN, NOUNS_ZH)[index]))
        answer = CANNOT[language]
    else:
        text = random.choice(_SUMS[index]).format(
            a=random.randint(100, 9999), o=random.choice("+-"), b=random.randint(1, 9999)
        )
        answer = TOO_LARGE[language]
    return Chat((ask(sentence(text), answer),), "unknown", language)
