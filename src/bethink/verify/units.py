r"""Units of measurement: which names mean the same, and where one stands behind a number.

A unit is never converted. It only decides that "5 cm" and "5 m" differ, and that "5 cm", "5\text{ cm}" and "5 centimeters" do not.
Names that are not in the table (apples, square units, ways) are kept as "" and agree with everything.
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
    """Cut a unit off a cleaned expression: (the rest, its canonical name); ("…", None) when there is none.

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
    if match := _TEXT_UNIT.fullmatch(text):
        return match["head"], canonical(match["unit"] + (match["power"] or ""))
    if (match := _WORD_UNIT.fullmatch(text)) and not _FUNCTIONS.search(match["unit"]):
        words, spaced = match["unit"].strip(), bool(match["space"])
        unit = canonical(words + (match["power"] or ""))
        long_word = spaced and any(len(word) >= 3 for word in words.split())
        if (unit and (len(words) > 1 or spaced)) or (long_word and not match["power"]):
            return match["head"], unit
    return text, None
