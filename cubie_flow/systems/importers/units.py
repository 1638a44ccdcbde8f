"""Units as text; nothing is computed with them."""

from __future__ import annotations

from typing import Any

_SYMBOLS = {
    "ampere": "A", "becquerel": "Bq", "candela": "cd", "celsius": "degC", "coulomb": "C",
    "dimensionless": "", "farad": "F", "gram": "g", "gray": "Gy", "henry": "H", "hertz": "Hz",
    "item": "item", "joule": "J", "katal": "kat", "kelvin": "K", "kilogram": "kg", "liter": "L",
    "litre": "L", "lumen": "lm", "lux": "lx", "meter": "m", "metre": "m", "mole": "mol",
    "newton": "N", "ohm": "ohm", "pascal": "Pa", "radian": "rad", "second": "s", "siemens": "S",
    "sievert": "Sv", "steradian": "sr", "tesla": "T", "volt": "V", "watt": "W", "weber": "Wb",
}  # fmt: skip
_PREFIXES = {
    -15: "f", -12: "p", -9: "n", -6: "u", -3: "m", -2: "c", -1: "d", 0: "", 3: "k", 6: "M", 9: "G",
}  # fmt: skip


def symbol_of(kind: str) -> str:
    """Return the usual symbol of a base unit."""
    return _SYMBOLS.get(kind, kind)


def unit_text(libsbml: Any, definition: Any) -> str:
    """Return the text of a unit definition of libsbml, such as ``mmol/L``; empty without one."""
    if definition is None or definition.getNumUnits() == 0:
        return ""
    above: list[str] = []
    below: list[str] = []
    for number in range(definition.getNumUnits()):
        unit = definition.getUnit(number)
        kind = libsbml.UnitKind_toString(unit.getKind())
        exponent = unit.getExponentAsDouble()
        text = _one(kind, unit.getScale(), unit.getMultiplier())
        if not text or exponent == 0:
            continue
        power = abs(exponent)
        text += "" if power == 1 else f"^{power:g}"
        (above if exponent > 0 else below).append(text)
    if not above and not below:
        return "1"
    return "*".join(above or ["1"]) + "".join(f"/{text}" for text in below)


def _one(kind: str, scale: int, multiplier: float) -> str:
    text = symbol_of(kind)
    if kind == "invalid" or (not text and scale == 0 and multiplier == 1):
        return ""
    if not text:
        return f"({multiplier * 10.0**scale:g})"
    if scale not in _PREFIXES or text == "kg":
        multiplier, scale = multiplier * 10.0**scale, 0
    text = _PREFIXES[scale] + text
    return text if multiplier == 1 else f"({multiplier:g} {text})"
