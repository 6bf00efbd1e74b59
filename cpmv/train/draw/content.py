"""Seeded content for composed sheets: names, places, goods, prices, dates, headings and sentences in four languages.

Words come from the word lists of this folder, so a held-out word never stands on a training sheet; the short lists
here follow the same rule. Language 0 is English (with some German and Spanish text), 1 Chinese.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .charset import character_ids, read_words
from .words import date_text, is_held_out

ENGLISH, CHINESE = 0, 1

_FIRST = """Ann Ben Carl Dora Emma Finn Grace Hugo Ida Jack Kate Leo Mary Nina Otto Paul Rosa Sam Tina Uma Vera Will Zoe
Adam Bella Clara David Eva Frank Greta Henry Iris James Karl Lucy Max Nora Oscar Peter Ruth Simon Tom Victor Walter
Alice Boris Cora Diana Elena Felix Gina Harry Ivan Julia Kevin Laura Mark Noah Olga Pia Ralph Sara Theo
Ursula""".split()
_LAST = """Adams Baker Clark Davis Evans Fisher Green Hall Irving Jones King Lewis Moore Nolan Owens Parker Quinn Reed
Smith Taylor Turner Vance Walker Young Weber Schmidt Koch Meyer Wolf Klein Braun Lopez Garcia Ruiz Vega Rossi Silva
Costa
Novak Larsen Jensen Berg Lund Dubois Martin Petit Brown White Black Stone Woods Hill Lake Rivers Field""".split()
_CITIES = """Rome Paris London Berlin Madrid Lisbon Oslo Vienna Prague Dublin Athens Cairo Tokyo Delhi Lima Quito Boston
Dallas Denver Miami Seattle Austin Hamburg Munich Cologne Milan Turin Naples Lyon Nice Porto Sofia Riga Tallinn Bern
Zurich Geneva Ghent Bruges Leeds York Bath Oxford Perth Sydney Kyoto Osaka Seoul""".split()
_GOODS = """Bread Milk Butter Cheese Eggs Rice Pasta Apples Pears Grapes Lemons Onions Carrots Tea Coffee Juice Water
Soap
Towel Candle Pencil Paper Notebook Stamps Gloves Socks Scarf Shirt Belt Lamp Battery Cable Mug Plate Spoon Honey Jam
Salt
Sugar Flour Yogurt Cookies Nuts Olives Tomato Pepper Garlic Salad Soup Pizza Sandwich Muffin Bagel Cake Ham Tuna
Shampoo Brush Tape Glue Nails Paint Broom Bucket Umbrella Ticket Poster Postcard Magnet Toy Ball Puzzle""".split()
_SHOP_WORDS = """Market Store Shop Corner Bakery Cafe Books Garden Foods Pharmacy Kiosk Deli Hardware Express Plaza
Center
Trading House Supply Outlet""".split()
_PRODUCTS = """Oat Bar|Green Tea|Sea Salt|Corn Flakes|Hand Cream|Olive Oil|Apple Juice|Dark Chocolate|Peanut
Butter|Tomato
Sauce|Fish Oil|Cough Syrup|Vitamin C|Face Mask|Dish Soap|Whole Milk|Black Beans|Baby Wipes|Rice Cakes|Fruit Tea|Mineral
Water|Wheat Flour|Soy Sauce|Lip Balm|Eye Drops|Cream Cheese|Potato Chips|Mixed Nuts|Hair Gel|Pain Relief""".replace(
    "\n", " "
)
_STREETS = "Street Road Lane Avenue Way Square Hill Park".split()
_JOBS = """teacher nurse baker driver farmer pilot clerk lawyer doctor painter writer cook guide tailor dentist plumber
engineer student waiter singer actor judge barber miner""".split()
_TOPICS = """News Report Notes Summary Guide Plan Review Rules Offer Invitation Minutes Agenda Schedule Overview Letter
Introduction Results Update Notice History Method Advice""".split()
WEEKDAYS = (
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "星期一 星期二 星期三 星期四 星期五 星期六 星期日".split(),
)
MONTHS = (
    "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(),
    [f"{month}月" for month in range(1, 13)],
)
_ZH_SURNAMES = "王李张刘陈杨黄吴周孙马朱胡林何高宋罗叶苏江白史方石钱万毛"
_ZH_GIVEN = (
    "明 华 文 红 建国 志强 小平 立新 国英 海 雨 春 秋 云 天明 思远 一鸣 子青 安 永康 月 星 乐 家宝 东 平 光 雪".split()
)
_ZH_CITIES = (
    "北京 上海 广州 成都 西安 南京 长沙 天津 香港 台北 海口 南昌 大连 青岛 昆明 太原 武汉 重庆 苏州 杭州".split()
)
_ZH_GOODS = """面包 茶叶 大米 水果 鲜鱼 牛肉 白菜 西红柿 黄油 点心 红茶 绿茶 香油 面粉 豆油 饮料 毛巾 书包 衣服 花瓶
图书
台历 地图 明信片 门票 雨衣 电池 香皂 手表 画册 光盘 本子 木板 布料 玉米 花生 香肉 海带 青菜 冷饮 早饭 午饭
晚饭""".split()
_ZH_SHOPS = "商店 书店 市场 超市 饭店 花店 药店 商行 百货 便利店".split()
_ZH_PRODUCTS = (
    "绿茶 红茶 面粉 大米 花生油 牛肉干 水果茶 维生素 感冒灵 洗手液 鱼油 香米 豆油 纯水 早餐面包 护手液".split()
)
_ZH_JOBS = "教师 医生 司机 工人 农民 记者 学生 画家 作家 律师 商人 演员 干部 导游".split()
_ZH_TOPICS = "通知 报告 简介 说明 计划 总结 规定 消息 介绍 公告 日程 新闻 安排 意见".split()


class Content:
    """Words and names of one side of the held-out split. Every text it makes can be drawn."""

    def __init__(self, *, held_out: bool = False) -> None:
        ids = character_ids()

        def kept(words: Sequence[str]) -> list[str]:
            chosen = [w for w in words if is_held_out(w) == held_out and all(c in ids for c in w)]
            return chosen or [w for w in words if all(c in ids for c in w)]

        self._words = {name: kept(read_words(f"words_{name}.txt")) for name in ("en", "de", "es", "zh")}
        self._titles = [word.capitalize() for word in self._words["en"] if 3 <= len(word) <= 9]
        self._first, self._last, self._shops = kept(_FIRST), kept(_LAST), kept(_SHOP_WORDS)
        self._cities = kept(_CITIES), kept(_ZH_CITIES)
        self._goods = kept(_GOODS), kept(_ZH_GOODS)
        self._products = kept(_PRODUCTS.split("|")), kept(_ZH_PRODUCTS)
        self._jobs = kept(_JOBS), kept(_ZH_JOBS)
        self._topics = kept(_TOPICS), kept(_ZH_TOPICS)
        self._given, self._zh_shops = kept(_ZH_GIVEN), kept(_ZH_SHOPS)

    @staticmethod
    def pick(rng: np.random.Generator, items: Sequence[str]) -> str:
        return items[int(rng.integers(len(items)))]

    @staticmethod
    def sample(rng: np.random.Generator, items: Sequence[str], count: int) -> list[str]:
        """`count` different items in random order."""
        return [items[int(index)] for index in rng.permutation(len(items))[:count]]

    def words(self, rng: np.random.Generator, count: int, tongue: str = "en") -> list[str]:
        """Words of "en", "de", "es" or "zh"; the commonest English ones more often."""
        words = self._words[tongue]
        places = rng.integers(len(words), size=count)
        if tongue == "en":
            places = np.where(rng.random(count) < 0.35, places % 330, places)
        return [words[int(place)] for place in places]

    def title_word(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        return self.pick(rng, self._words["zh"] if language else self._titles)

    def distinct(self, rng: np.random.Generator, count: int, language: int = ENGLISH, longest: int = 9) -> list[str]:
        """`count` different capitalised words of at most `longest` letters."""
        found: dict[str, None] = {}
        for _ in range(40 * count):
            word = self.title_word(rng, language)
            if len(word) <= longest:
                found.setdefault(word)
            if len(found) == count:
                break
        return list(found)

    def sentence(self, rng: np.random.Generator, count: int, tongue: str = "en") -> list[str]:
        """A sentence of about `count` words as pieces that may be wrapped; punctuation sticks to its word."""
        words = self.words(rng, max(2, count), tongue)
        commas, end = ("，", "。") if tongue == "zh" else (",", ".")
        if len(words) > 5 and rng.random() < 0.5:
            words[len(words) // 2] += commas
        draw = rng.random()
        if draw < 0.2:
            place = int(rng.integers(len(words) - 1))
            words[place] = self.number(rng) if draw < 0.12 else words[place].capitalize()
        words[0] = words[0][:1].upper() + words[0][1:]
        if draw > 0.93:
            end = "？" if tongue == "zh" else "?"
        words[-1] += end
        return words

    @staticmethod
    def number(rng: np.random.Generator) -> str:
        return str(int(rng.integers(10 ** int(rng.integers(1, 5)))))

    def person(self, rng: np.random.Generator, language: int = ENGLISH, *, full: bool | None = None) -> str:
        if language:
            return self.pick(rng, _ZH_SURNAMES) + self.pick(rng, self._given)
        full = bool(rng.random() < 0.5) if full is None else full
        first = self.pick(rng, self._first)
        return f"{first} {self.pick(rng, self._last)}" if full else first

    def city(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        return self.pick(rng, self._cities[language])

    def cities(self, rng: np.random.Generator, count: int, language: int = ENGLISH) -> list[str]:
        return self.sample(rng, self._cities[language], count)

    def people(self, rng: np.random.Generator, count: int, language: int = ENGLISH) -> list[str]:
        """Different short names."""
        if language:
            return list({self.person(rng, CHINESE): None for _ in range(4 * count)})[:count]
        return self.sample(rng, self._first, count)

    def job(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        return self.pick(rng, self._jobs[language])

    def goods(self, rng: np.random.Generator, count: int, language: int = ENGLISH) -> list[str]:
        """Different names of goods: half from everyday life, half any word, some of two words."""
        listed = self.sample(rng, self._goods[language], count)
        others = self.distinct(rng, count, language)
        chosen = {(a if rng.random() < 0.6 else b): None for a, b in zip(listed, others + listed, strict=False)}
        names = list(chosen)
        if not language and names and rng.random() < 0.3:
            names[0] = f"{self.pick(rng, self._titles)} {names[0].lower()}"
        return names

    def shop(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        if language:
            return self.pick(rng, self._words["zh"])[:3] + self.pick(rng, self._zh_shops)
        draw = rng.random()
        if draw < 0.3:
            return f"{self.pick(rng, self._last)} {self.pick(rng, self._shops)}"
        if draw < 0.6:
            return f"{self.pick(rng, self._titles)} {self.pick(rng, self._shops)}"
        return (
            f"{self.pick(rng, self._cities[0])} {self.pick(rng, self._shops)}" if draw < 0.8 else self.title_word(rng)
        )

    def product(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        if language or rng.random() < 0.5:
            return self.pick(rng, self._products[language])
        return " ".join(self.pick(rng, self._titles) for _ in range(int(rng.integers(1, 3))))

    def street(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        if language:
            return f"{self.pick(rng, self._words['zh'])[:3]}路{int(rng.integers(1, 300))}号"
        return f"{int(rng.integers(1, 300))} {self.pick(rng, self._titles)} {self.pick(rng, _STREETS)}"

    def heading(self, rng: np.random.Generator, language: int = ENGLISH, tongue: str = "en") -> str:
        """A heading of one to four words."""
        if language:
            return self.pick(rng, self._words["zh"]) + self.pick(rng, self._topics[1])
        if tongue != "en":
            words = self.words(rng, int(rng.integers(1, 4)), tongue)
            return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])
        draw = rng.random()
        words = [self.pick(rng, self._titles) for _ in range(int(rng.integers(1, 4)))]
        if draw < 0.4:
            words = [*words[:2], self.pick(rng, self._topics[0])]
        text = " ".join(words)
        return text.upper() if draw > 0.85 else text

    @staticmethod
    def day(rng: np.random.Generator) -> tuple[int, int, int]:
        """Year 1990-2039, month, day 1-28."""
        return int(rng.integers(1990, 2040)), int(rng.integers(1, 13)), int(rng.integers(1, 29))

    def date(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        form = 5 if language and rng.random() < 0.6 else int(rng.integers(5 if not language else 3))
        return date_text(form, *self.day(rng))

    @staticmethod
    def time(rng: np.random.Generator) -> str:
        return f"{int(rng.integers(7, 22)):02d}:{5 * int(rng.integers(12)):02d}"

    @staticmethod
    def code(rng: np.random.Generator) -> str:
        """A lot or order number."""
        letters = "".join("ABCDEFGHJKLMNPRSTUVWXYZ"[int(i)] for i in rng.integers(23, size=2))
        digits = int(rng.integers(100, 99999))
        return (f"{letters}{digits}", f"{letters}-{digits}", f"{digits}", f"{letters[0]}{digits}", f"#{digits}")[
            int(rng.integers(5))
        ]

    @staticmethod
    def phone(rng: np.random.Generator) -> str:
        a, b, c = (int(n) for n in rng.integers((100, 100, 1000), (1000, 1000, 10000)))
        return (f"{a}-{b}-{c}", f"{a} {c}", f"0{a} {b}{c}", f"{b}-{c}")[int(rng.integers(4))]


@lru_cache(maxsize=2)
def content_of(held_out: bool) -> Content:
    """The content of one side of the split, built once a process; the training side's names are mostly new ones."""
    if held_out:
        return Content(held_out=True)
    from .fresh_content import FreshContent

    return FreshContent()


ENGLISH_MONEY = ("${}", "€{}", "£{}", "{}", "{} EUR", "{} USD", "{}€", "$ {}")
CHINESE_MONEY = ("￥{}", "{}元", "{}", "￥ {}")


@lru_cache(maxsize=4096)
def _grouped(cents: int, decimals: int, comma: bool) -> str:
    text = f"{cents / 100:.{decimals}f}"
    return text.replace(".", ",") if comma else text


class Money:
    """One way of writing amounts, for a whole sheet."""

    def __init__(self, rng: np.random.Generator, language: int = ENGLISH, *, plain: bool = False) -> None:
        patterns = CHINESE_MONEY if language else ENGLISH_MONEY
        self.pattern = "{}" if plain else patterns[int(rng.integers(len(patterns)))]
        self.whole = bool(rng.random() < 0.12)
        self.comma = "€" in self.pattern and bool(rng.random() < 0.5)

    def amount(self, rng: np.random.Generator, most: int = 4000) -> int:
        """A random price in cents."""
        cents = int(rng.integers(50, most))
        ending = rng.random()
        cents = cents // 100 * 100 + (99 if ending < 0.2 else 50 if ending < 0.35 else cents % 100)
        return max(100, cents // 100 * 100) if self.whole else cents

    def text(self, cents: int) -> str:
        return self.pattern.format(_grouped(cents, 0 if self.whole else 2, self.comma))

    def bare(self, cents: int) -> str:
        """Without the currency sign."""
        return _grouped(cents, 0 if self.whole else 2, self.comma)
