"""Broker quotes on the grid of their symbol: the bid rounded down, the ask up, so that no gain is taken for more than it is.

A broker may quote between two of the steps it states; the live rows and the session have to agree on what becomes of it.
"""

import re
from collections.abc import Iterable
from fractions import Fraction

from engine.instruments import Instrument, decimal_text
from engine.record.columns import MAX_DIGITS, MAX_TEXT
from engine.record.decode import Quote

CACHED = 1 << 17               # texts remembered for each symbol
NUMBER = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?", re.ASCII)


class Grid(dict):
    """Decimal texts to the text of the next whole step; what is on a step, or no number, stays as it is."""

    def __init__(self, size: str, up: bool):
        super().__init__()
        self.size, self.up, self.decimals = size, up, len(size.partition(".")[2])

    def __missing__(self, text: str) -> str:
        found = NUMBER.fullmatch(text) if len(text) <= MAX_TEXT else None
        moved = text
        if found is not None and len(found[1]) + len((found[2] or "").rstrip("0")) <= MAX_DIGITS:
            steps, rest = divmod(Fraction(text), Fraction(self.size))
            if rest:
                moved = decimal_text(steps + self.up, self.size, max(self.decimals, len(found[2] or "")))
        if len(self) >= CACHED:
            self.clear()
        self[text] = moved
        return moved


class Grids(dict):
    """The two grids of each broker symbol."""

    def __init__(self, instruments: Iterable[Instrument]):
        super().__init__((i.symbol, (Grid(i.tick_size, up=False), Grid(i.tick_size, up=True))) for i in instruments if i.venue == "mt5")

    def place(self, quote: Quote) -> Quote:
        """Return a quote on its grid; one of another symbol as it is."""
        if quote.symbol not in self:
            return quote
        down, up = self[quote.symbol]
        return Quote(quote.symbol, quote.event_ns, down[quote.bid_price], up[quote.ask_price], quote.bits)
