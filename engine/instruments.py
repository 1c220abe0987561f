"""Exact decimal text to integer ticks and lots, and back."""

from dataclasses import asdict, dataclass
from decimal import Decimal
from fractions import Fraction

from engine.errors import BadInput

SHORTEST = -1  # text style of venues that drop trailing zeros


def scaled(text: str, decimals: int) -> int:
    """Return `text` times 10**decimals as an exact integer; raise ValueError when it has more decimals or is no number."""
    whole, point, fraction = text.partition(".")
    if len(fraction) > decimals:
        if fraction[decimals:].strip("0"):
            raise ValueError(f"{text!r} has more than {decimals} decimals")
        fraction = fraction[:decimals]
    if not (whole.lstrip("-") + fraction).isdigit() or (point and not (fraction or whole)):
        raise ValueError(f"{text!r} is not a decimal number")
    return int(whole + fraction + "0" * (decimals - len(fraction)))


@dataclass(frozen=True)
class Instrument:
    """One symbol of one venue: its price tick, its lot, and how the venue writes both."""

    symbol: str
    venue: str                     # binance_usdm | binance_spot | mt5
    tick_size: str                 # smallest price step, decimal text
    lot_size: str                  # smallest quantity step, decimal text
    price_decimals: int            # decimals in the venue's price text, SHORTEST where zeros are dropped
    qty_decimals: int
    scale_source: str = "inferred" # inferred (greatest step that fits every value) | given | venue
    pair: str = ""                 # for a broker symbol: the venue symbol that leads it
    least_lots: int = 1            # of a broker symbol: the smallest deal

    def price_ticks(self, text: str) -> int:
        """Return a price as whole ticks, exactly, or raise BadInput."""
        return _steps(text, self.tick_size, f"price of {self.symbol}", "tick")

    def qty_lots(self, text: str) -> int:
        """Return a quantity as whole lots, exactly, or raise BadInput."""
        return _steps(text, self.lot_size, f"quantity of {self.symbol}", "lot")

    def price_text(self, ticks: int) -> str:
        """Return ticks as the venue would write the price."""
        return decimal_text(ticks, self.tick_size, self.price_decimals)

    def qty_text(self, lots: int) -> str:
        """Return lots as the venue would write the quantity."""
        return decimal_text(lots, self.lot_size, self.qty_decimals)

    @property
    def usd_per_ticklot(self) -> Fraction:
        """Value of one tick times one lot, in quote currency."""
        return Fraction(self.tick_size) * Fraction(self.lot_size)

    def as_dict(self) -> dict:
        """Return the manifest entry."""
        return asdict(self)


def _steps(text: str, step: str, what: str, unit: str) -> int:
    try:
        steps = Fraction(Decimal(text)) / Fraction(step)
    except (ArithmeticError, ValueError):
        raise BadInput(f"{what} {text!r} is not a decimal number") from None
    if steps.denominator != 1:
        raise BadInput(f"{what} {text} is not a whole number of {unit}s of {step}")
    return steps.numerator


def decimal_text(steps: int, step: str, decimals: int) -> str:
    """Write steps * step with a fixed number of decimals, or with no trailing zeros when `decimals` is SHORTEST."""
    value = Decimal(steps) * Decimal(step)
    if decimals != SHORTEST:
        return f"{value:.{decimals}f}"
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
