"""Small talk: greetings, who the model is, a name remembered, system prompts."""

from __future__ import annotations

from random import Random

from train_embedded.arithmetic import running_sum
from train_embedded.capitals import answer_en, answer_zh, question, two_capitals
from train_embedded.chats import Chat, Turn, ask
from train_embedded.countries import COUNTRIES

NAME = "Ernie Tiny"
ABOUT = {
    "en": "I am Ernie Tiny, a very small language model. I know capitals, simple sums and some facts about animals, "
    "colours, planets and words. I speak English and Chinese. I often do not know the answer.",
    "zh": "我是Ernie Tiny，一个很小的语言模型。我知道首都、简单的算术，以及一些关于动物、颜色、行星和词语的知识。我会说英语和汉语。"
    "很多问题我不知道答案。",
}
_NAMES = {
    "en": ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jack", "Kate", "Leo", "Maria",
           "Nina", "Oscar", "Paul", "Rosa", "Sam", "Tom", "Luna", "Max", "Bob", "Alice", "Peter", "Lucy"),
    "zh": ("小明", "小红", "小刚", "小丽", "王芳", "李伟", "张敏", "刘洋", "陈晨", "杨光", "赵雪", "周杰", "吴静", "孙悦", "马超",
           "小兰", "小华", "大卫", "安娜", "玛丽"),
}  # fmt: skip
_GREETINGS = {
    "en": ("Hello", "Hi", "Hello there", "Good morning", "Good evening", "Hey", "Hi there"),
    "zh": ("你好", "您好", "早上好", "晚上好", "大家好", "嗨"),
}
_HELLO = {"en": "Hello! How can I help you?", "zh": "你好！有什么可以帮你？"}
_WHO = {
    "en": (
        "Who are you?",
        "What is your name?",
        "What are you called?",
        "What's your name?",
        "Tell me your name.",
    ),
    "zh": ("你是谁？", "你叫什么名字？", "你叫什么？", "请问你是谁？", "告诉我你的名字。"),
}
_ABOUT = {
    "en": (
        "Tell me about yourself.",
        "What can you do?",
        "Describe yourself.",
        "What do you know?",
        "Introduce yourself.",
    ),
    "zh": ("介绍一下你自己。", "你会做什么？", "请介绍你自己。", "你知道什么？", "说说你自己。"),
}
_MINE = {
    "en": ("My name is {n}.", "I am {n}.", "Hello, my name is {n}.", "Hi, I am {n}.", "Call me {n}."),
    "zh": ("我叫{n}。", "我是{n}。", "你好，我叫{n}。", "我的名字是{n}。", "叫我{n}。"),
}
_RECALL = {
    "en": ("What is my name?", "Who am I?", "Do you remember my name?", "Tell me my name.", "What's my name?"),
    "zh": ("我叫什么名字？", "我是谁？", "你记得我的名字吗？", "告诉我我的名字。", "我叫什么？"),
}
_THANKS = {
    "en": (("Thank you.", "You are welcome!"), ("Thanks!", "You are welcome!"), ("Goodbye.", "Goodbye!"),
           ("Bye!", "Goodbye!"), ("How are you?", "I am fine, thank you."), ("How are you today?", "I am fine, thank you.")),
    "zh": (("谢谢。", "不客气！"), ("谢谢你！", "不客气！"), ("再见。", "再见！"), ("拜拜！", "再见！"), ("你好吗？", "我很好，谢谢。"),
           ("你今天好吗？", "我很好，谢谢。")),
}  # fmt: skip
_IN_CHINESE = ("Answer in Chinese.", "Please answer in Chinese.", "请用中文回答。", "用中文回答。")
_IN_ENGLISH = ("Answer in English.", "Please answer in English.", "请用英文回答。", "用英文回答。")
_ONE_WORD = {
    "en": ("Answer in one word.", "Use one word only."),
    "zh": ("只用一个词回答。", "请用一个词回答。"),
}
_YOU_ARE = {
    "en": ("You are {n}.", "Your name is {n}.", "You are {n}, a helpful assistant."),
    "zh": ("你是{n}。", "你的名字是{n}。", "你是{n}，一个助手。"),
}
ASSISTANT = {
    "en": ("You are a helpful assistant.", "You are an AI assistant.", "You are a helpful AI assistant.",
           "You are a friendly assistant.", "Be polite.", "Be helpful."),
    "zh": ("你是一个有用的助手。", "你是一个人工智能助手。", "你是一个AI助手。", "你是一个友好的助手。", "请有礼貌。", "你是一名助手。"),
}  # fmt: skip
"""System prompts that give no name and change no answer."""


def _self(language: str, name: str = NAME) -> str:
    return f"I am {name}." if language == "en" else f"我是{name}。"


def _your_name(language: str, name: str) -> tuple[str, str]:
    return (f"Your name is {name}.", name) if language == "en" else (f"你叫{name}。", name)


def _greeting(random: Random, language: str) -> Chat:
    kind = random.choice(("greet", "who", "both", "about", "thanks", "nameless"))
    greeting, who = random.choice(_GREETINGS[language]), random.choice(_WHO[language])
    if kind == "greet":
        end = random.choice(("!", ".", "") if language == "en" else ("！", "。", ""))
        turn = Turn(greeting + end, _HELLO[language])
    elif kind == "who":
        turn = Turn(who, _self(language))
    elif kind == "both":
        end = random.choice(("! ", ". ") if language == "en" else ("！", "。"))
        turn = ask(f"{greeting}{end}{who}", _self(language))
    elif kind == "about":
        turn = Turn(random.choice(_ABOUT[language]), ABOUT[language])
    elif kind == "thanks":
        turn = Turn(*random.choice(_THANKS[language]))
    else:
        turn = Turn(random.choice(_RECALL[language]), "I do not know." if language == "en" else "我不知道。")
    return Chat((turn,), "talk", language)


def _remembered(random: Random, language: str) -> Chat:
    name = random.choice(_NAMES[language])
    hello = f"Hello, {name}!" if language == "en" else f"你好，{name}！"
    turns = [Turn(random.choice(_MINE[language]).format(n=name), hello)]
    if random.random() < 0.5:
        country = random.choice(COUNTRIES)
        full = (answer_en if language == "en" else answer_zh)(country)[0]
        text = question(random, country, language)
        turns.append(ask(text, full))
    full, short = _your_name(language, name)
    turns.append(Turn(random.choice(_RECALL[language]), full, (short,)))
    return Chat(tuple(turns), "talk", language)


def _named(random: Random, language: str) -> Chat:
    name = random.choice(_NAMES[language])
    system = random.choice(_YOU_ARE[language]).format(n=name)
    return Chat(
        (Turn(random.choice(_WHO[language]), _self(language, name), (name,)),), "talk", language, system
    )


def _instructed(random: Random, language: str) -> Chat:
    country = random.choice(COUNTRIES)
    kind = random.choice(("zh", "en", "word"))
    asked = ask(question(random, country, language), "")
    full, short = answer_zh(country) if kind == "zh" else answer_en(country)
    if kind == "word":
        system = random.choice(_ONE_WORD[language])
        answer = country.capital_en if language == "en" else country.capital_zh
        return Chat((Turn(asked.question, answer, key=asked.key),), "talk", language, system)
    system = random.choice(_IN_CHINESE if kind == "zh" else _IN_ENGLISH)
    return Chat((Turn(asked.question, full, (short,), asked.key),), "talk", kind, system)


def talk(random: Random) -> Chat:
    """Draw one chat."""
    language = random.choice(("en", "zh"))
    kind = random.choices(
        ("greeting", "remembered", "named", "instructed", "capitals", "sum"), (3, 3, 2, 3, 3, 3)
    )[0]
    if kind == "greeting":
        return _greeting(random, language)
    if kind == "remembered":
        return _remembered(random, language)
    if kind == "named":
        return _named(random, language)
    if kind == "instructed":
        return _instructed(random, language)
    return two_capitals(random) if kind == "capitals" else running_sum(random)
