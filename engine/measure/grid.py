"""The grid of a sweep: `rule.param=a:b:n` texts to every combination of values, each checked by the rule itself."""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from engine.errors import BadInput, nearest
from engine.rules import Choice

MOST_SETS = 4096
MOST_WHOLE = 2**53
EXAMPLE = "whale.large_usd=500000:1000000:3 or void.reach=0.5,1,2"
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18})(?:[eE][+-]?[0-9]{1,2})?")


@dataclass(frozen=True)
class Axis:
    """One parameter and the values it takes, whole numbers as int."""

    rule: str
    param: str
    values: tuple[int | float, ...]
    listed: bool               # the values were written one by one

    @property
    def name(self) -> str:
        """As it is written: rule.param."""
        return f"{self.rule}.{self.param}"


@dataclass(frozen=True)
class ParameterSet:
    """One point of the grid: its values by axis, and the choices with only the swept rules acting."""

    values: dict[str, int | float]
    choices: tuple[Choice, ...]


def parse_grid(texts: Sequence[str]) -> list[Axis]:
    """Read axes: `rule.param=a:b:n` (n values from a to b, both included), `a:b:n:log` (equal ratios), or `x,y,z`."""
    axes: list[Axis] = []
    for text in texts:
        place, equals, values = text.partition("=")
        rule, dot, param = (part.strip() for part in place.partition("."))
        if not equals or not rule or not dot or not param or not values.strip():
            raise BadInput(f"--grid {text}: write it as rule.param=values, such as {EXAMPLE}")
        found = _range(text, values) if ":" in values else [_number(text, part) for part in values.split(",")]
        axis = Axis(rule, param, tuple(_plain(value) for value in found), ":" not in values)
        if axis.listed and len(set(axis.values)) < len(axis.values):
            raise BadInput(f"--grid {text}: a value is given twice; give each once")
        if axis.name in {other.name for other in axes}:
            raise BadInput(f"--grid {text}: {axis.name} is given twice; give all its values at once")
        axes.append(axis)
    if not axes:
        raise BadInput(f"a sweep needs a grid: --grid {EXAMPLE}")
    return axes


def expand(axes: Sequence[Axis], choices: Sequence[Choice]) -> tuple[list[Axis], list[ParameterSet], list[dict]]:
    """Return the axes as the parameters take them, every set the rules accept, and those refused with the reason.

    The last axis runs fastest. A value that is refused in every set is an error, because then the grid says something
    that cannot be.
    """
    by_name = {choice.rule.name: choice for choice in choices}
    axes = [_fitted(axis, by_name) for axis in axes]
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_SETS:
        sizes = " x ".join(str(len(axis.values)) for axis in axes)
        raise BadInput(f"the grid has {count} sets ({sizes}); {MOST_SETS} at most, so give fewer values")
    sets, refused = [], []
    for point in itertools.product(*(axis.values for axis in axes)):
        values = {axis.name: value for axis, value in zip(axes, point)}
        try:
            sets.append(ParameterSet(values, _chosen(axes, values, choices)))
        except ValueError as error:
            refused.append({"set": values, "reason": str(error)})
    for axis in axes:
        taken = {entry.values[axis.name] for entry in sets}
        for value in axis.values:
            if value not in taken:
                reason = next(entry["reason"] for entry in refused if entry["set"][axis.name] == value)
                raise BadInput(f"--grid {axis.name}={_text(value)}: no set with it is allowed: {reason}")
    return axes, sets, refused


def _chosen(axes: Sequence[Axis], values: dict, choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """Return the choices of one set; the rule's own check raises ValueError."""
    swept = {axis.rule for axis in axes}
    found = []
    for choice in choices:
        name = choice.rule.name
        changes = {axis.param: values[axis.name] for axis in axes if axis.rule == name}
        params = dataclasses.replace(choice.params, **changes) if changes else choice.params
        found.append(dataclasses.replace(choice, params=params, mode="act" if name in swept else "off"))
    return tuple(found)


def _fitted(axis: Axis, by_name: dict[str, Choice]) -> Axis:
    """Check an axis and give its values the parameter's type; a range of whole numbers takes the nearest, each once."""
    if axis.rule not in by_name:
        raise BadInput(f"--grid {axis.name}: no rule {axis.rule!r}; {nearest(axis.rule, by_name)}")
    kinds = dict(by_name[axis.rule].rule.params_fields)
    if axis.param not in kinds or axis.param == "unused_":
        raise BadInput(f"--grid {axis.name}: rule {axis.rule} has no parameter {axis.param!r}; "
                       f"{nearest(axis.param, kinds)}")
    if kinds[axis.param] != "i8":
        return dataclasses.replace(axis, values=tuple(float(value) for value in axis.values))
    odd = [value for value in axis.values if value != int(value)]
    if odd and axis.listed:
        raise BadInput(f"--grid {axis.name}={_text(odd[0])}: {axis.param} is a whole number")
    large = [value for value in axis.values if abs(value) > MOST_WHOLE]
    if large:
        raise BadInput(f"--grid {axis.name}={_text(large[0])}: {axis.param} is a whole number of at most {MOST_WHOLE}")
    whole = [math.floor(Fraction(value) + Fraction(1, 2)) for value in axis.values]
    return dataclasses.replace(axis, values=tuple(dict.fromkeys(whole)))


def _range(text: str, values: str) -> list[Fraction]:
    """Return the values of a:b:n or a:b:n:log, both ends exact."""
    parts = [part.strip() for part in values.split(":")]
    spacing = parts[3] if len(parts) == 4 else "linear"
    if len(parts) not in (3, 4) or spacing not in ("linear", "log"):
        raise BadInput(f"--grid {text}: write a range as first:last:count or first:last:count:log")
    first, last = _number(text, parts[0]), _number(text, parts[1])
    if not re.fullmatch("[0-9]{1,9}", parts[2]) or int(parts[2]) < 2:
        raise BadInput(f"--grid {text}: count {parts[2]!r} is not a whole number of 2 or more")
    count = int(parts[2])
    if count > MOST_SETS:
        raise BadInput(f"--grid {text}: {count} values; {MOST_SETS} sets at most, so give fewer values")
    if not first < last:
        raise BadInput(f"--grid {text}: the first value {parts[0]} is not below the last {parts[1]}")
    if spacing == "linear":
        return [first + (last - first) * n / (count - 1) for n in range(count)]
    if first <= 0:
        raise BadInput(f"--grid {text}: equal ratios need a first value above 0, got {parts[0]}")
    low, high = math.log(first), math.log(last)
    inner = [Fraction(f"{math.exp(low + (high - low) * n / (count - 1)):.12g}") for n in range(1, count - 1)]
    return [first, *inner, last]


def _number(text: str, part: str) -> Fraction:
    if not _NUMBER.fullmatch(part.strip()):
        raise BadInput(f"--grid {text}: {part.strip()!r} is not a number; {EXAMPLE} would be right")
    return Fraction(part.strip())


def _plain(value: Fraction) -> int | float:
    return value.numerator if value.denominator == 1 else float(value)


def _text(value: int | float) -> str:
    return f"{value:.12g}"
