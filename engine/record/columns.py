"""Decimal texts to integers, whole columns at a time and exactly, and what a symbol's values have in common."""

from dataclasses import dataclass, field
from decimal import Decimal
from math import gcd

import numpy as np

from engine.errors import BadInput
from engine.instruments import SHORTEST
from engine.kernel.records import MISSING

MAX_TEXT = 40      # characters; a longer price is no price
MAX_DIGITS = 18    # of an integer that surely fits 64 bits


@dataclass
class Decimals:
    """A parsed column: value = mantissa / 10**decimals, with as few decimals as the value needs."""

    mantissa: np.ndarray
    decimals: np.ndarray
    written: np.ndarray  # decimals in the text
    good: np.ndarray


def parse_decimals(texts: list[str]) -> Decimals:
    """Parse unsigned decimal texts; anything else, and more than 18 digits, is not good."""
    size = len(texts)
    try:
        cells = np.array(texts, dtype="S")
    except UnicodeEncodeError:
        cells = np.array([t if t.isascii() else "?" for t in texts], dtype="S")
    if cells.dtype.itemsize > MAX_TEXT:
        cells = np.array([t if len(t) <= MAX_TEXT and t.isascii() else "?" for t in texts], dtype="S")
    width = cells.dtype.itemsize
    chars = np.ascontiguousarray(cells.view(np.uint8).reshape(size, width).T)
    value = chars - np.uint8(48)
    digit = value < 10
    dot = chars == 46
    length = (chars != 0).sum(0)
    dots = dot.sum(0)
    point = np.where(dots > 0, dot.argmax(0), length)
    place = np.arange(width)[:, None]
    significant = digit & (value != 0) & (place > point)
    last = np.where(significant.any(0), width - 1 - significant[::-1].argmax(0), point - 1)
    decimals = np.maximum(last - point, 0)
    good = (digit.sum(0) + dots == length) & (dots <= 1) & (point > 0) & (point != length - 1)
    good &= ~((value[0] == 0) & (point > 1)) & (point + decimals <= MAX_DIGITS)
    mantissa = np.zeros(size, np.int64)
    used = digit & (place <= last)
    for row in range(width):
        mantissa = np.where(used[row], mantissa * 10 + value[row], mantissa)
    return Decimals(mantissa, decimals, np.maximum(length - point - 1, 0), good)


def rescale(values: np.ndarray, from_decimals: int, to_decimals: int, what: str) -> np.ndarray:
    """Return integers at more decimals; MISSING stays MISSING."""
    if from_decimals == to_decimals:
        return values
    factor = 10 ** (to_decimals - from_decimals)
    known = values != MISSING
    if factor >= 2**63 or (known.any() and int(values[known].max()) > (2**63 - 1) // factor):
        raise _too_wide(what, to_decimals, int(values[known].max()), from_decimals)
    return np.where(known, values * factor, MISSING)


def _too_wide(what: str, decimals: int, mantissa: int, mantissa_decimals: int) -> BadInput:
    return BadInput(f"{what} has a value {decimal_of(mantissa, mantissa_decimals)} and others of {decimals} decimals, "
                    "which together do not fit 64 bits; one of them is wrong")


@dataclass
class Scale:
    """What all values of one kind had in common so far: decimals needed, decimals written, greatest step."""

    decimals: int = 0
    step: int = 0                                   # greatest common divisor at `decimals`; 0 = no value but zero
    written: set[int] = field(default_factory=set)  # decimals in the venue's texts
    zeros_kept: bool = False                        # some text ended in a zero it did not need
    bare_zeros: bool = False                        # some text was "0", whatever the others look like

    def take(self, parsed: Decimals, what: str) -> tuple[np.ndarray, int]:
        """Fold in a column of good values; return them as integers and the decimals they stand at."""
        decimals = int(parsed.decimals.max(initial=0))
        factors = 10 ** (decimals - parsed.decimals)
        wide = parsed.mantissa > (2**63 - 1) // factors
        if wide.any():
            raise _too_wide(what, decimals, int(parsed.mantissa[wide][0]), int(parsed.decimals[wide][0]))
        values = parsed.mantissa * factors
        top = max(decimals, self.decimals)
        self.step = gcd(self.step * 10 ** (top - self.decimals), int(np.gcd.reduce(values)) * 10 ** (top - decimals))
        self.decimals = top
        bare_zero = (parsed.mantissa == 0) & (parsed.written == 0)
        self.bare_zeros |= bool(bare_zero.any())
        if not bare_zero.all():
            written = parsed.written[~bare_zero]
            self.written.update(np.unique(written).tolist())
            self.zeros_kept |= bool((written > parsed.decimals[~bare_zero]).any())
        return values, decimals

    def joined(self, other: "Scale | None") -> "Scale":
        """Return a scale whose step divides the values of both."""
        if other is None:
            return self
        top = max(self.decimals, other.decimals)
        step = gcd(self.step * 10 ** (top - self.decimals), other.step * 10 ** (top - other.decimals))
        return Scale(top, step, self.written, self.zeros_kept, self.bare_zeros)

    def step_text(self) -> str:
        """Return the greatest step of the form 1, 2, 2.5 or 5 times a power of ten that divides every value."""
        if self.step == 0:
            return decimal_of(1, 0)
        power = 0
        while self.step % 10 ** (power + 1) == 0:
            power += 1
        rest = self.step // 10**power
        nice = max(n for n in (1, 2, 5, 25) if rest % n == 0)
        return decimal_of(nice * 10**power, self.decimals)

    def style(self) -> tuple[int, str]:
        """Return the decimals of the venue's texts (or SHORTEST) and, where neither fits every text, a note."""
        if len(self.written) <= 1:
            decimals = max(self.written, default=0)
            return decimals, "of zero is also written as a bare 0" if decimals and self.bare_zeros else ""
        if not self.zeros_kept:
            return SHORTEST, ""
        return max(self.written), f"texts have {min(self.written)} to {max(self.written)} decimals"


def decimal_of(mantissa: int, decimals: int) -> str:
    """Return mantissa / 10**decimals as plain text without needless zeros."""
    text = f"{Decimal(mantissa).scaleb(-decimals):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def steps_of(values: np.ndarray, decimals: int, size: str, what: str) -> tuple[np.ndarray, tuple[int, str] | None]:
    """Return values (at `decimals`) as whole steps of `size`, and the first that is not one as (row, text)."""
    step = Decimal(size)
    top = max(decimals, -int(step.as_tuple().exponent))
    values = rescale(values, decimals, top, what)
    divisor = int(step.scaleb(top))
    known = values != MISSING
    steps, rest = np.divmod(values, divisor)
    wrong = np.flatnonzero((rest != 0) & known)
    if len(wrong):
        return steps, (int(wrong[0]), decimal_of(int(values[wrong[0]]), top))
    return np.where(known, steps, MISSING), None
