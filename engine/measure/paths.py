"""Broker quotes of a session as arrays, and what a mechanical exit would have got on them."""

from dataclasses import dataclass

import numba
import numpy as np

from engine.kernel import records as R

# how a simulated exit ended
END_STOP, END_TAKE, END_TIME, END_OPEN, END_RULE = range(1, 6)


@dataclass(frozen=True)
class Path:
    """The broker quotes of one symbol in order of receive time, prices in broker ticks."""

    recv_ns: np.ndarray
    bid_ticks: np.ndarray
    ask_ticks: np.ndarray


class PathBuilder:
    """Collects the broker quotes of each symbol from a stream of EVENT rows; a quote cut by a chunk is put together."""

    def __init__(self, symbols: int):
        self._parts: list[list[np.ndarray]] = [[] for _ in range(symbols)]

    def add(self, chunk: np.ndarray) -> None:
        """Take the quotes of a chunk."""
        for symbol, parts in enumerate(self._parts):
            rows = chunk[(chunk["kind"] == R.QUOTE) & (chunk["symbol"] == symbol)]
            if len(rows):
                parts.append(np.stack([rows["recv_ns"], rows["price_ticks"], rows["side"]]))

    def paths(self) -> list[Path]:
        """Return one path for each symbol, without quotes that no broker can mean (no price, ask below bid)."""
        found = []
        for parts in self._parts:
            joined = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0), np.int64)
            bids, asks = joined[:, joined[2] > 0], joined[:, joined[2] < 0]
            good = (bids[1] > 0) & (asks[1] >= bids[1])
            found.append(Path(asks[0][good], bids[1][good], asks[1][good]))
        return found


@numba.njit(cache=True, error_model="numpy")
def exits(recv_ns, bid, ask, sides, start_ns, stops, takes, deadlines_ns, out_ns, out_ticks, out_end, missing):
    """Leave each position at the first quote at or after its start that meets its stop, take profit or time limit.

    The kernel's rules: a stop fills at the quote (a gap is paid), a take profit at its level, the stop is looked at first. Levels may be
    `missing`. Where the quotes end first, the last one is used and the end is END_OPEN.
    """
    for i in range(sides.shape[0]):
        side = sides[i]
        n = np.searchsorted(recv_ns, start_ns[i])
        end = 4
        price = missing
        while n < recv_ns.shape[0]:
            price = bid[n] if side > 0 else ask[n]
            if stops[i] != missing and side * (price - stops[i]) <= 0:
                end = 1
                break
            if takes[i] != missing and side * (price - takes[i]) >= 0:
                end = 2
                price = takes[i]
                break
            if deadlines_ns[i] != missing and recv_ns[n] >= deadlines_ns[i]:
                end = 3
                break
            n += 1
        out_end[i] = end
        out_ticks[i] = price
        out_ns[i] = recv_ns[min(n, recv_ns.shape[0] - 1)] if recv_ns.shape[0] else missing


def simulate_exits(path: Path, sides, start_ns, stops, takes, deadlines_ns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return time, price in ticks and kind of end of each mechanical exit; see `exits`."""
    count = len(sides)
    out_ns, out_ticks, out_end = (np.full(count, R.MISSING) for _ in range(3))
    exits(
        path.recv_ns,
        path.bid_ticks,
        path.ask_ticks,
        *(np.ascontiguousarray(a, np.int64) for a in (sides, start_ns, stops, takes, deadlines_ns)),
        out_ns,
        out_ticks,
        out_end,
        R.MISSING,
    )
    return out_ns, out_ticks, out_end


def price_at(path: Path, sides: np.ndarray, at_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the exit price of the first quote at or after each time, and its time; MISSING past the last quote."""
    n = np.searchsorted(path.recv_ns, at_ns)
    past = n >= len(path.recv_ns)
    n = np.minimum(n, len(path.recv_ns) - 1)
    price = np.where(np.asarray(sides) > 0, path.bid_ticks[n], path.ask_ticks[n])
    return np.where(past, R.MISSING, price), np.where(past, R.MISSING, path.recv_ns[n])


def extremes(path: Path, sides, entry_ticks, from_ns, to_ns) -> tuple[np.ndarray, np.ndarray]:
    """Return best and worst exit price against entry, in ticks, over [from, to] of each position; MISSING without a quote."""
    best, worst = np.full(len(sides), R.MISSING), np.full(len(sides), R.MISSING)
    low = np.searchsorted(path.recv_ns, from_ns)
    high = np.searchsorted(path.recv_ns, to_ns, "right")
    for i in range(len(sides)):
        if high[i] > low[i]:
            prices = (path.bid_ticks if sides[i] > 0 else path.ask_ticks)[low[i] : high[i]]
            gains = sides[i] * (prices - entry_ticks[i])
            best[i], worst[i] = gains.max(), gains.min()
    return best, worst
