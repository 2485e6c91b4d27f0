r"""Units of measurement: which names mean the same, and where one stands behind a number.

A unit is never converted. It only decides that "5 cm" and "5 m" differ, and that "5 cm", "5\text{ cm}" and "5 centimeters" do not.
Names that are not in the table (apples, square units, ways) are kept as "" and agree with everything. Words that make another number
("2 million", "3 dozen") are factors; words that go on with a number or a sentence ("4 squared", "2 or more", "5 is wrong") are no unit.
"""

from __future__ import annotations

import re

_NAMES = {
    "%": r"% \% percent percentage pct",
    "$": r"$ \$ dollar dollars usd",
    "¢": "¢ cent cents",
    "€": "€ euro euros eur",
    "deg": r"\degree degree degrees deg",
    "rad": "rad radian radians",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr yrs year years",
    "mg": "mg milligram milligrams",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms kilo kilos",
    "lb": "lb lbs pound pounds",
    "oz": "oz ounce ounces",
    "ton": "ton tons",
    "mL": "ml milliliter milliliters millilitre millilitres",
    "L": "l liter liters litre litres",
    "gal": "gal gallon gallons",
    "mph": "mph",
    "km/h": "kph kmh km/h",
    "m/s": "m/s",
    "am": "am a.m. a.m",
    "pm": "pm p.m. p.m",
    "acre": "acre acres",
}
_CANONICAL = {name: unit for unit, names in _NAMES.items() for name in names.split()}
_FACTORS = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen "
    "twenty"
)
NUMBER_NAMES = tuple(_TO_TWENTY.split())
_TENS = "thirty forty fifty sixty seventy eighty ninety"
_PARTS = "half|halves|(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth|millionth|billionth)s?"
_NO_UNIT = re.compile(
    "|".join(
        (
            rf"^(?:{_PARTS})\b(?!-)",  # 4 tenths
            rf"\b(?:{'|'.join([*NUMBER_NAMES, *_TENS.split(), *_FACTORS])})s?$",  # 2 point five, 3 times five
            r"^(?:squared|cubed)$|^(?:root|over)\b",  # 4 squared, but 5 squared units
            r"\b(?:plus|minus|divided|multiplied|mod|modulo|choose|factorial|infinity)\b",  # 4 choose two
            r"^times\s+[A-Za-z]$",  # 3 times x, but 3 times
            r"^(?:and|or|to|wait)\b",  # 2 or more
            r"\bor (?:more|less|fewer|greater|higher|lower|above|below|over|under|so)\b",
            r"\b(?:than|not|never|maybe|perhaps|if|unless|out of|at least|at most)\b",  # 5 at most
            r"^(?:is|are|was|were|isn't|cannot|would|could|should|might)\b",  # 5 is wrong
            r"\b(?:wrong|incorrect|false|impossible)$",
        )
    ),
    re.IGNORECASE,
)
"""What words behind a number say that are no unit."""
_POWER_WORDS = re.compile(r"\b(square|sq\.?|cubic|cu\.?)\s+")
_POWER = re.compile(r"\s*\^\s*\{?\s*([23])\s*\}?$|\s*\b(squared|cubed)$")
_FUNCTIONS = re.compile(r"\b(?:sin|cos|tan|cot|sec|csc|log|ln|exp|mod|sqrt|arc\w+|gcd|lcm)\s*[(A-Za-z0-9]")

_ANGLE_FUNCTION = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])"
)  # in tan 15°, ° belongs to the argument

_HEAD = r"(?P<head>.*[\d)}!.]|.*\\(?:pi|infty|degree)\s)"
_TEXT_UNIT = re.compile(
    r"(?P<head>.*\S)\s*\\text\{(?P<unit>[^{}]*)\}(?P<power>\s*\^\s*\{?\s*[23]\s*\}?)?", re.DOTALL
)
_WORD_UNIT = re.compile(
    _HEAD + r"(?P<space>\s*)(?P<unit>[A-Za-z][A-Za-z./ -]*?)(?P<power>\s*\^\s*\{?\s*[23]\s*\}?)?", re.DOTALL
)
_SIGN_UNIT = re.compile(
    r"(?P<head>.*\S)\s*(?P<unit>\\%|¢|€|\\degree)(?:\s*(?:\\text\s*\{\s*)?(?P<scale>[CF])\}?)?", re.DOTALL
)
_MONEY = re.compile(r"(?P<sign>-?)\s*(?:\\\$|€|£)\s*(?P<rest>.*)", re.DOTALL)


def canonical(name: str) -> str:
    """The one name of a unit ("centimeters" → "cm", "square feet" → "ft^2"); "" for what is in no table."""
    name = name.strip().rstrip(".,")
    power = ""
    if word := _POWER_WORDS.match(name.lower()):
        power = "^2" if word[1].startswith("sq") else "^3"
        name = name[word.end() :]
    elif mark := _POWER.search(name):
        power = f"^{mark[1]}" if mark[1] else "^2" if mark[2] == "squared" else "^3"
        name = name[: mark.start()]
    name = name.strip()
    unit = _CANONICAL.get(name) or _CANONICAL.get(name.lower())
    return unit + power if unit else ""


def conflict(left: str | None, right: str | None) -> bool:
    """Whether two units are both known and not the same. None (no unit) and "" (an unknown one) conflict with nothing."""
    return bool(left and right and left != right)


def take(text: str) -> tuple[str, str | None]:
    """Cut a unit off a cleaned expression: (the rest, its canonical name); ("…", None) when there is none. A factor before it is
    multiplied into the rest.

    A single letter is a unit only as \\text or behind a space ("5 m"): 5m is a product.
    """
    if match := _MONEY.fullmatch(text):
        rest, _ = take(match["rest"])
        return (
            (match["sign"] + rest, "$") if "$" in text else (match["sign"] + rest, "€" if "€" in text else "")
        )
    if (match := _SIGN_UNIT.fullmatch(text)) and not _ANGLE_FUNCTION.search(match["head"]):
        unit = _CANONICAL[match["unit"]]
        return match["head"], unit + (match["scale"] or "")
    if match := _words_behind(text):
        return _cut(text, match)
    return text, None


def _cut(text: str, match: re.Match[str]) -> tuple[str, str | None]:
    head, words = _multiplied(match)
    power = match["power"] or ""
    if not words and head != match["head"]:
        return head, None
    if _NO_UNIT.search(words):
        return text, None
    unit = canonical(words + power)
    if match.re is _TEXT_UNIT:
        # \text{i} is a letter, \text{m} a unit.
        return (head, unit) if unit or len(words) != 1 else (f"{head} {words}{power}", None)
    spaced = bool(match["space"])
    long_word = any(len(word) >= 3 for word in words.split())
    if (unit and (spaced or len(words) > 1)) or (spaced and long_word and not power):
        return head, unit
    return text, None


def goes_on(text: str) -> bool:
    """Whether words stand behind a number which are no unit and make something else of it ("4 squared", "5 is wrong")."""
    match = _words_behind(text)
    return bool(match and _NO_UNIT.search(_multiplied(match)[1]))


def _words_behind(text: str) -> re.Match[str] | None:
    """The words at the end of an expression: in \\text{…}, or bare behind a number."""
    if match := _TEXT_UNIT.fullmatch(text):
        return match
    match = _WORD_UNIT.fullmatch(text)
    return match if match and not _FUNCTIONS.search(match["unit"]) else None


def _multiplied(match: re.Match[str]) -> tuple[str, str]:
    """(head, words) with the factors at the start of the words multiplied into the head."""
    head, words = match["head"], match["unit"].strip()
    while (first := words.partition(" ")[0].rstrip("s.").lower()) in _FACTORS:
        head, words = rf"({head})\cdot {_FACTORS[first]}", words.partition(" ")[2].strip()
    return head, words
