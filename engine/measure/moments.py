"""What acting on any trade at any moment would have brought, on the quotes the trade was really run on."""

from dataclasses import dataclass

import numpy as np

from engine.kernel.records import CLOSE, MISSING, PARTIAL, TIGHTEN
from engine.measure.outcomes import Policy, Trades
from engine.measure.paths import END_STOP, Path, simulate_exits

_GAP_NS = 86_400 * 10**9


@dataclass(frozen=True)
class Board:
    """The quotes of all sessions and symbols end to end on one clock, so that every look-up is one search.

    A moment of trade i on that clock is its UTC time + shift_ns[i]; its quotes are the places first[i] .. end[i] - 1.
    """

    trades: Trades
    path: Path                 # recv_ns on the joint clock
    shift_ns: np.ndarray
    first: np.ndarray
    end: np.ndarray
    slippage_ticks: int


@dataclass(frozen=True)
class Manner:
    """How an exit is made: the action, the share closed, the distance of a new stop from the exit price (R)."""

    action: np.ndarray
    share: np.ndarray
    distance_r: np.ndarray


@dataclass(frozen=True)
class Effect:
    """What acting changed (R, 0 where nothing was filled), whether anything was, and the open result then (R)."""

    delta_r: np.ndarray
    fired: np.ndarray
    gain_r: np.ndarray


def build_board(trades: Trades, paths, slippage_ticks: int = 0) -> Board:
    """Lay the quotes of paths[session][symbol] end to end; a Board built before is returned as it is."""
    if isinstance(paths, Board):
        return paths
    n = len(trades)
    shift, first, end = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    parts, base_ns, count = [], 0, 0
    for session, symbol in sorted(set(zip(trades.session.tolist(), trades.symbol.tolist()))):
        path = paths[session][symbol]
        if not len(path.recv_ns):
            raise ValueError(f"session {session}, symbol {symbol}: trades without a broker quote")
        rows = (trades.session == session) & (trades.symbol == symbol)
        shift[rows] = base_ns - int(path.recv_ns[0])
        first[rows], end[rows] = count, count + len(path.recv_ns)
        parts.append((path.recv_ns + (base_ns - int(path.recv_ns[0])), path.bid_ticks, path.ask_ticks))
        base_ns += int(path.recv_ns[-1] - path.recv_ns[0]) + _GAP_NS
        count += len(path.recv_ns)
    joined = [np.concatenate(part) for part in zip(*parts)] if parts else [np.zeros(0, np.int64)] * 3
    return Board(trades, Path(*joined), shift, first, end, slippage_ticks)


def manners(trades: Trades, policy: Policy, rows: np.ndarray) -> Manner:
    """Return how a policy acted on the trades it fired on; a partial close of the whole position counts as a close."""
    share = np.where(policy.action[rows] == PARTIAL, np.nan_to_num(policy.share[rows], nan=1.0), 1.0)
    moved = policy.action[rows] == TIGHTEN
    distance = np.where(moved, policy.stop_distance_ticks[rows] / trades.risk_ticks[rows], np.nan)
    return Manner(policy.action[rows], share, distance)


def pick(manner: Manner, index: np.ndarray) -> Manner:
    """Return some rows of a Manner."""
    return Manner(manner.action[index], manner.share[index], manner.distance_r[index])


def quotes_from(board: Board, rows: np.ndarray, at_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return place and exit price (ticks) of the first quote at or after each UTC time.

    Third: whether it comes before the baseline's exit.
    """
    trades, path = board.trades, board.path
    n = np.maximum(np.searchsorted(path.recv_ns, at_ns + board.shift_ns[rows]), board.first[rows])
    inside = n < board.end[rows]
    n = np.minimum(n, board.end[rows] - 1)
    price = np.where(trades.side[rows] > 0, path.bid_ticks[n], path.ask_ticks[n])
    return n, price, inside & (path.recv_ns[n] - board.shift_ns[rows] < trades.close_ns[rows])


def gains_r(board: Board, rows: np.ndarray, price_ticks: np.ndarray) -> np.ndarray:
    """Return the result of leaving each trade at a price, R."""
    trades = board.trades
    return trades.side[rows] * (price_ticks - trades.entry_ticks[rows]) / trades.risk_ticks[rows]


def act(board: Board, rows: np.ndarray, due_ns: np.ndarray, manner: Manner) -> Effect:
    """Fill an action on each trade at the first quote at or after its due time, unless the baseline's exit goes first.

    An exit of the baseline at that very quote goes first.
    """
    trades = board.trades
    place, price, fired = quotes_from(board, rows, due_ns)
    gain = gains_r(board, rows, price)
    slip = board.slippage_ticks / trades.risk_ticks[rows]
    delta = manner.share * (gain - slip - trades.y[rows])
    moved = np.flatnonzero(fired & (manner.action == TIGHTEN))
    delta[manner.action == TIGHTEN] = 0.0
    if len(moved):
        delta[moved], fired[moved] = _tighten(board, rows[moved], place[moved], price[moved], manner.distance_r[moved])
    return Effect(np.where(fired, delta, 0.0), fired, gain)


def _tighten(board: Board, rows: np.ndarray, place: np.ndarray, price: np.ndarray,
             distance_r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move stops at a quote; return what that changed and whether the new stop was nearer than the old one."""
    trades = board.trades
    ticks = np.maximum(1, np.rint(distance_r * trades.risk_ticks[rows])).astype(np.int64)
    stops = price - trades.side[rows] * ticks
    nearer = trades.side[rows] * (stops - trades.stop_ticks[rows]) > 0
    return stop_effect(board, rows, board.path.recv_ns[place], np.where(nearer, stops, MISSING))[0], nearer


def stop_effect(board: Board, rows: np.ndarray, start_clock_ns: np.ndarray,
                stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what another stop from a moment on changes (R), and which were met before the baseline's exit.

    Up to the baseline's exit both arms are the same trade but for that stop, so its take profit and time limit need no
    second simulation.
    """
    trades = board.trades
    closes = trades.close_ns[rows] + board.shift_ns[rows]
    none = np.full(len(rows), MISSING)
    at, price, end = simulate_exits(board.path, trades.side[rows], start_clock_ns, stops, none, closes)
    met = (end == END_STOP) & (at < closes)
    change = gains_r(board, rows, price) - board.slippage_ticks / trades.risk_ticks[rows] - trades.y[rows]
    return np.where(met, change, 0.0), met


def net_class(y: np.ndarray, delta: np.ndarray, epsilon: float) -> np.ndarray:
    """Return +1 for saved, -1 for harmed and 0 for the rest, by the definitions of `outcomes.classify`."""
    return ((y <= -epsilon) & (delta >= epsilon)).astype(np.int8) - (delta <= -epsilon).astype(np.int8)


def closing(count: int) -> Manner:
    """Return the manner of closing whole."""
    return Manner(np.full(count, CLOSE), np.ones(count), np.full(count, np.nan))
