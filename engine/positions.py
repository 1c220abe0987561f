"""From planned trades and a session's instruments to the kernel's symbols and POSITION rows."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from engine.errors import BadInput
from engine.instruments import Instrument
from engine.kernel import records as R
from engine.run import Pair
from engine.stream import empty_events
from engine.trades import TradePlan


@dataclass(frozen=True)
class Desk:
    """The kernel's symbols: each venue symbol with the broker symbol it leads, and what names point to it."""

    pairs: list[Pair]
    numbers: dict[str, int]            # venue and broker symbol -> place in pairs
    quoted: list[bool]                 # broker quotes were recorded

    def number(self, symbol: str) -> int:
        """Return the place of a symbol, or raise BadInput naming those there are."""
        if symbol not in self.numbers:
            raise BadInput(f"no symbol {symbol!r} in the session; it has {', '.join(sorted(self.numbers))}")
        return self.numbers[symbol]


def open_desk(instruments: list[Instrument], model_tick: str) -> Desk:
    """Pair the venue's instruments with the broker's."""
    brokers = [entry for entry in instruments if entry.venue == "mt5"]
    pairs, numbers, quoted = [], {}, []
    for entry in instruments:
        if entry.venue == "mt5":
            continue
        mine = [broker for broker in brokers if broker.pair == entry.symbol]
        if len(mine) > 1:
            raise BadInput(f"{mine[0].symbol} and {mine[1].symbol} are both led by {entry.symbol}; import one of them")
        numbers[entry.symbol] = len(pairs)
        for broker in mine:
            numbers[broker.symbol] = len(pairs)
        pairs.append(Pair(entry.symbol, entry.tick_size, entry.lot_size, mine[0].tick_size if mine else model_tick,
                          entry.venue == "binance_usdm", min_volume=mine[0].least_lots if mine else 1))
        quoted.append(bool(mine))
    for broker in brokers:
        if broker.symbol not in numbers:
            numbers[broker.symbol] = len(pairs)
            pairs.append(Pair(broker.symbol, broker.tick_size, broker.lot_size, broker.tick_size, False, min_volume=broker.least_lots))
            quoted.append(True)
    return Desk(pairs, numbers, quoted)


def _ticks(text: str, tick_size: str) -> int:
    """Return a price rounded to the broker's grid: entries may be averages of several fills."""
    return round(Fraction(text) / Fraction(tick_size))


def _volume(plan: TradePlan, step: str) -> int:
    steps = Fraction(plan.volume) / Fraction(step)
    if steps.denominator != 1 or steps < 1:
        raise BadInput(f"trade {plan.ticket}: volume {plan.volume} is not a whole number of steps of {step} lots; give --volume-step")
    return steps.numerator


def _frame(plan: TradePlan, number: int, tick_size: str, step: str) -> list[dict]:
    """Return the rows that open one position."""
    rows = [{"code": R.OPENED, "price_ticks": R.MISSING if plan.price is None else _ticks(plan.price, tick_size),
             "qty_lots": _volume(plan, step)}]
    for code, level, distance in ((R.STOP_SET, plan.sl, plan.sl_bps), (R.TAKE_SET, plan.tp, plan.tp_bps)):
        if level is not None:
            rows.append({"code": code, "price_ticks": _ticks(level, tick_size)})
        elif distance is not None:
            rows.append({"code": code, "price_ticks": round(distance * 100), "bits": R.RELATIVE})
    if plan.max_hold_ns is not None:
        rows.append({"code": R.HOLD_SET, "qty_lots": plan.max_hold_ns})
    return rows


def position_rows(plans: list[TradePlan], desk: Desk, volume_step: str, recorded_exits: bool) -> np.ndarray:
    """Return the POSITION rows of the plans in order of time, with the recorded exits only when they are asked for."""
    frames: list[tuple[int, int, TradePlan, list[dict]]] = []
    for plan in plans:
        number = desk.number(plan.symbol)
        tick = desk.pairs[number].quote_tick_size
        frames.append((plan.open_ns, number, plan, _frame(plan, number, tick, volume_step)))
        if recorded_exits and plan.close_ns is not None:
            price = R.MISSING if plan.close_price is None else _ticks(plan.close_price, tick)
            frames.append((plan.close_ns, number, plan, [{"code": R.CLOSED, "price_ticks": price}]))
    frames.sort(key=lambda frame: frame[0])
    rows = empty_events(sum(len(frame[3]) for frame in frames))
    at = 0
    for recv_ns, number, plan, parts in frames:
        for place, part in enumerate(parts):
            row = rows[at]
            row.recv_ns, row.kind, row.symbol, row.side, row.id = recv_ns, R.POSITION, number, plan.side, plan.ticket
            for name, value in part.items():
                row[name] = value
            row.bits |= (R.FIRST if place == 0 else 0) | (R.LAST if place == len(parts) - 1 else 0)
            at += 1
    return rows


def most_open(plans: list[TradePlan], last_ns: int) -> int:
    """Return how many of the plans can be open at once, counting a plan without an end as open to the last."""
    moments = []
    for plan in plans:
        end = last_ns if plan.max_hold_ns is None else plan.open_ns + plan.max_hold_ns + 60_000_000_000
        moments += [(plan.open_ns, 1), (end, -1)]
    count = most = 0
    for _, change in sorted(moments):
        count += change
        most = max(most, count)
    return most
