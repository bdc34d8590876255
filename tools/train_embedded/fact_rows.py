"""The rows of the tables of facts: ``left = right`` in English, then in Chinese. This module is data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A fact in both languages: its left and its right side."""

    en: tuple[str, str]
    zh: tuple[str, str]


_TEXTS = {
    "legs": """
a dog = four / 狗 = 四; a cat = four / 猫 = 四; a horse = four / 马 = 四; a cow = four / 牛 = 四
a sheep = four / 羊 = 四; a pig = four / 猪 = 四; a lion = four / 狮子 = 四; an elephant = four / 大象 = 四
a chicken = two / 鸡 = 两; a duck = two / 鸭子 = 两; a bird = two / 鸟 = 两; an ant = six / 蚂蚁 = 六
a bee = six / 蜜蜂 = 六; a fly = six / 苍蝇 = 六; a spider = eight / 蜘蛛 = 八; a crab = ten / 螃蟹 = 十
a fish = no / 鱼 = 零; a snake = no / 蛇 = 零
""",
    "sounds": """
a dog = woof / 狗 = 汪汪; a cat = meow / 猫 = 喵喵; a cow = moo / 牛 = 哞哞; a sheep = baa / 羊 = 咩咩
a duck = quack / 鸭子 = 嘎嘎; a pig = oink / 猪 = 哼哼; a bee = buzz / 蜜蜂 = 嗡嗡; a frog = ribbit / 青蛙 = 呱呱
a lion = roar / 狮子 = 嗷嗷; a mouse = squeak / 老鼠 = 吱吱; a snake = hiss / 蛇 = 嘶嘶; a bird = tweet / 鸟 = 叽叽
""",
    "colours": """
grass = green / 草 = 绿色; the sky = blue / 天空 = 蓝色; snow = white / 雪 = 白色; blood = red / 血 = 红色
a banana = yellow / 香蕉 = 黄色; coal = black / 煤 = 黑色; a carrot = orange / 胡萝卜 = 橙色
a lemon = yellow / 柠檬 = 黄色; milk = white / 牛奶 = 白色; a tomato = red / 番茄 = 红色; the sea = blue / 大海 = 蓝色
chocolate = brown / 巧克力 = 棕色; a crow = black / 乌鸦 = 黑色; a leaf = green / 树叶 = 绿色
a cucumber = green / 黄瓜 = 绿色; a strawberry = red / 草莓 = 红色; salt = white / 盐 = 白色
an eggplant = purple / 茄子 = 紫色; a fire engine = red / 消防车 = 红色; gold = yellow / 金子 = 黄色
""",
    "opposites": """
hot = cold / 热 = 冷; big = small / 大 = 小; tall = short / 高 = 矮; huge = tiny / 巨大 = 微小; fast = slow / 快 = 慢
old = young / 老 = 少; happy = sad / 高兴 = 难过; good = bad / 好 = 坏; up = down / 上 = 下; left = right / 左 = 右
open = closed / 开 = 关; day = night / 白天 = 黑夜; black = white / 黑 = 白; full = empty / 满 = 空
wet = dry / 湿 = 干; hard = soft / 硬 = 软; light = heavy / 轻 = 重; early = late / 早 = 晚; far = near / 远 = 近
rich = poor / 富 = 穷; strong = weak / 强 = 弱; clean = dirty / 干净 = 肮脏; loud = quiet / 吵闹 = 安静
true = false / 真 = 假; first = last / 最先 = 最后; inside = outside / 里面 = 外面; begin = end / 开始 = 结束
buy = sell / 买 = 卖; win = lose / 赢 = 输; push = pull / 推 = 拉; love = hate / 爱 = 恨; yes = no / 是 = 否
wide = narrow / 宽 = 窄; thick = thin / 厚 = 薄; deep = shallow / 深 = 浅; easy = difficult / 容易 = 困难
north = south / 北 = 南; east = west / 东 = 西; sweet = bitter / 甜 = 苦; new = used / 新 = 旧
""",
    "symbols": """
hydrogen = H / 氢 = H; helium = He / 氦 = He; lithium = Li / 锂 = Li; carbon = C / 碳 = C; nitrogen = N / 氮 = N
oxygen = O / 氧 = O; fluorine = F / 氟 = F; neon = Ne / 氖 = Ne; sodium = Na / 钠 = Na; magnesium = Mg / 镁 = Mg
aluminium = Al / 铝 = Al; silicon = Si / 硅 = Si; phosphorus = P / 磷 = P; sulfur = S / 硫 = S; chlorine = Cl / 氯 = Cl
potassium = K / 钾 = K; calcium = Ca / 钙 = Ca; iron = Fe / 铁 = Fe; copper = Cu / 铜 = Cu; zinc = Zn / 锌 = Zn
silver = Ag / 银 = Ag; tin = Sn / 锡 = Sn; gold = Au / 金 = Au; mercury = Hg / 汞 = Hg; lead = Pb / 铅 = Pb
""",
    "planets": """
first = Mercury / 第一 = 水星; second = Venus / 第二 = 金星; third = Earth / 第三 = 地球; fourth = Mars / 第四 = 火星
fifth = Jupiter / 第五 = 木星; sixth = Saturn / 第六 = 土星; seventh = Uranus / 第七 = 天王星
eighth = Neptune / 第八 = 海王星
""",
    "units": """
minutes are in an hour = 60 / 一小时有多少分钟 = 60分钟; seconds are in a minute = 60 / 一分钟有多少秒 = 60秒
hours are in a day = 24 / 一天有多少小时 = 24小时; days are in a week = 7 / 一周有多少天 = 7天
months are in a year = 12 / 一年有多少个月 = 12个月; days are in a year = 365 / 一年有多少天 = 365天
weeks are in a year = 52 / 一年有多少周 = 52周; years are in a century = 100 / 一世纪有多少年 = 100年
metres are in a kilometre = 1000 / 一公里有多少米 = 1000米; grams are in a kilogram = 1000 / 一公斤有多少克 = 1000克
centimetres are in a metre = 100 / 一米有多少厘米 = 100厘米; millimetres are in a centimetre = 10 / 一厘米有多少毫米 = 10毫米
seasons are in a year = 4 / 一年有多少个季节 = 4个季节; letters are in the alphabet = 26 / 英语有多少个字母 = 26个字母
planets are in the solar system = 8 / 太阳系有多少颗行星 = 8颗行星; items are in a dozen = 12 / 一打有多少个 = 12个
fingers are on a hand = 5 / 一只手有多少根手指 = 5根手指; wheels are on a bicycle = 2 / 自行车有多少个轮子 = 2个轮子
""",
    "languages": """
China = Chinese / 中国 = 汉语; Japan = Japanese / 日本 = 日语; South Korea = Korean / 韩国 = 韩语
France = French / 法国 = 法语; Germany = German / 德国 = 德语; Italy = Italian / 意大利 = 意大利语
Spain = Spanish / 西班牙 = 西班牙语; Portugal = Portuguese / 葡萄牙 = 葡萄牙语; Russia = Russian / 俄罗斯 = 俄语
Mexico = Spanish / 墨西哥 = 西班牙语; Brazil = Portuguese / 巴西 = 葡萄牙语; Egypt = Arabic / 埃及 = 阿拉伯语
Australia = English / 澳大利亚 = 英语; Greece = Greek / 希腊 = 希腊语; Poland = Polish / 波兰 = 波兰语
Turkey = Turkish / 土耳其 = 土耳其语; Vietnam = Vietnamese / 越南 = 越南语; Thailand = Thai / 泰国 = 泰语
Sweden = Swedish / 瑞典 = 瑞典语; Argentina = Spanish / 阿根廷 = 西班牙语; Iran = Persian / 伊朗 = 波斯语
""",
    "young": """
dog = puppy / 狗 = puppy; cat = kitten / 猫 = kitten; cow = calf / 牛 = calf; sheep = lamb / 羊 = lamb
horse = foal / 马 = foal; duck = duckling / 鸭 = duckling; lion = cub / 狮子 = cub; frog = tadpole / 青蛙 = tadpole
chicken = chick / 鸡 = chick; goose = gosling / 鹅 = gosling; pig = piglet / 猪 = piglet; goat = kid / 山羊 = kid
""",
    "translations": """
apple = 苹果 / 苹果 = apple; book = 书 / 书 = book; water = 水 / 水 = water; fire = 火 / 火 = fire; tree = 树 / 树 = tree
house = 房子 / 房子 = house; sun = 太阳 / 太阳 = sun; moon = 月亮 / 月亮 = moon; star = 星星 / 星星 = star
dog = 狗 / 狗 = dog; cat = 猫 / 猫 = cat; fish = 鱼 / 鱼 = fish; bird = 鸟 / 鸟 = bird; flower = 花 / 花 = flower
mountain = 山 / 山 = mountain; river = 河 / 河 = river; rain = 雨 / 雨 = rain; snow = 雪 / 雪 = snow
wind = 风 / 风 = wind; cloud = 云 / 云 = cloud; bread = 面包 / 面包 = bread; rice = 米饭 / 米饭 = rice
tea = 茶 / 茶 = tea; coffee = 咖啡 / 咖啡 = coffee; milk = 牛奶 / 牛奶 = milk; egg = 鸡蛋 / 鸡蛋 = egg
school = 学校 / 学校 = school; teacher = 老师 / 老师 = teacher; friend = 朋友 / 朋友 = friend
mother = 母亲 / 母亲 = mother; father = 父亲 / 父亲 = father; car = 汽车 / 汽车 = car; train = 火车 / 火车 = train
table = 桌子 / 桌子 = table; chair = 椅子 / 椅子 = chair; door = 门 / 门 = door; hand = 手 / 手 = hand
eye = 眼睛 / 眼睛 = eye; red = 红色 / 红色 = red; green = 绿色 / 绿色 = green; thanks = 谢谢 / 谢谢 = thanks
""",
    "sides": """
a triangle = three / 三角形 = 三; a square = four / 正方形 = 四; a pentagon = five / 五边形 = 五
a hexagon = six / 六边形 = 六; a heptagon = seven / 七边形 = 七; an octagon = eight / 八边形 = 八
a rectangle = four / 长方形 = 四; a decagon = ten / 十边形 = 十
""",
}


def _row(text: str) -> Row:
    english, chinese = (tuple(part.strip().split(" = ")) for part in text.split(" / "))
    (a, b), (c, d) = english, chinese
    return Row((a, b), (c, d))


ROWS = {
    name: tuple(_row(each) for line in text.split("\n") for each in line.split("; ") if each)
    for name, text in _TEXTS.items()
}
