"""Broker quotes modelled from the venue's best quotes, for recordings that hold none; every output then says so."""

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np

from engine.errors import BadInput, nearest
from engine.kernel import records as R
from engine.stream import empty_events

_PART = re.compile(r"(-?\d+(?:\.\d+)?)(bps|ms|s|)")
_MILLION = 1_000_000


@dataclass(frozen=True)
class QuoteModel:
    """A broker that follows the venue's mid after `lag_ns`, `spread_bps` wide, shifted by `basis_bps`, on its own price grid."""

    spread_bps: Fraction = Fraction(2)
    basis_bps: Fraction = Fraction(0)
    lag_ns: int = 100_000_000
    tick_size: str = "0.01"

    def text(self) -> str:
        """Return the model as it would be given, exactly: a run is repeated from it."""
        lag_ms = Fraction(self.lag_ns, 10**6)
        return f"spread={_decimal(self.spread_bps)}bps,basis={_decimal(self.basis_bps)}bps,lag={_decimal(lag_ms)}ms,tick={self.tick_size}"


def _decimal(value: Fraction) -> str:
    return f"{Decimal(value.numerator) / value.denominator:f}"


def parse_quotes(text: str) -> QuoteModel:
    """Read `spread=2bps,basis=0bps,lag=100ms,tick=0.01`."""
    known = {"spread": "spread_bps", "basis": "basis_bps", "lag": "lag_ns", "tick": "tick_size"}
    values: dict = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, _, value = part.partition("=")
        if key not in known:
            raise BadInput(f"--quotes {part}: {key!r} is not known; {nearest(key, known)}")
        found = _PART.fullmatch(value)
        unit = {"spread": ("bps",), "basis": ("bps",), "lag": ("ms", "s"), "tick": ("",)}[key]
        if not found or found[2] not in unit:
            raise BadInput(f"--quotes {part}: write {key} as a number and {' or '.join(unit) or 'no unit'}")
        number = Fraction(found[1])
        if number < 0 and key != "basis" or number == 0 and key == "tick":
            raise BadInput(f"--quotes {part}: {key} must be above zero")
        values[known[key]] = value if key == "tick" else (int(number * (10**9 if found[2] == "s" else 10**6)) if key == "lag" else number)
    return QuoteModel(**values)


class Modeller:
    """Turns best quotes into broker quotes, remembering the last one of each symbol so that only changes are quoted."""

    def __init__(self, model: QuoteModel, tick_sizes: list[str]):
        self.model = model
        self._ratio = [Fraction(tick) / (2 * Fraction(model.tick_size)) for tick in tick_sizes]
        self._last: dict[int, tuple[int, int]] = {}
        self._half = int(model.spread_bps * 50)          # 1/100 bp
        self._basis = int(model.basis_bps * 100)

    def quotes(self, chunk: np.ndarray) -> np.ndarray:
        """Return the quote rows that the best quotes of a chunk lead to, in order of time."""
        last = np.flatnonzero((chunk["kind"] == R.BEST) & (chunk["side"] < 0))
        if not len(last):
            return np.zeros(0, R.EVENT)
        bids, asks = _bid_before(chunk, last), chunk["price_ticks"][last]
        symbols = chunk["symbol"][last]
        low, high = np.zeros(len(last), np.int64), np.zeros(len(last), np.int64)
        keep = np.zeros(len(last), bool)
        for symbol in np.unique(symbols):
            mine = np.flatnonzero(symbols == symbol)
            ratio = self._ratio[symbol]
            centre = (bids[mine] + asks[mine]) * ratio.numerator
            unit = ratio.denominator * _MILLION
            low[mine] = centre * (_MILLION + self._basis - self._half) // unit
            high[mine] = -(-centre * (_MILLION + self._basis + self._half) // unit)
            before = self._last.get(int(symbol), (-1, -1))
            keep[mine] = (np.concatenate([[before[0]], low[mine][:-1]]) != low[mine]) | (
                np.concatenate([[before[1]], high[mine][:-1]]) != high[mine])
            self._last[int(symbol)] = (int(low[mine][-1]), int(high[mine][-1]))
        return self._rows(chunk["recv_ns"][last][keep], symbols[keep], low[keep], high[keep])

    def _rows(self, recv_ns: np.ndarray, symbols: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        rows = empty_events(2 * len(recv_ns))
        rows["recv_ns"] = np.repeat(recv_ns + self.model.lag_ns, 2)
        rows["symbol"] = np.repeat(symbols, 2)
        rows["kind"] = R.QUOTE
        rows["price_ticks"][0::2], rows["price_ticks"][1::2] = low, high
        rows["side"][0::2], rows["side"][1::2] = 1, -1
        rows["bits"][0::2], rows["bits"][1::2] = R.FIRST | R.MODELLED, R.LAST | R.MODELLED
        return rows


def _bid_before(chunk: np.ndarray, asks: np.ndarray) -> np.ndarray:
    """Return the bid row's price of each best quote; a frame is never cut between them by the stream."""
    return chunk["price_ticks"][asks - 1]
