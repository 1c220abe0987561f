"""Aggregate trades derived from recorded raw ones, for captures that hold only those."""

from collections.abc import Iterator
from decimal import Decimal

from engine.record import wire
from engine.record.decode import SPOT

WINDOW_MS = 100
FIRST_ID = 1_000_000_001  # of derived aggregates; the venue's own ids are not known


def derive(venue: str, numbers: dict[str, int], names: list[int], frames: list[bytes], times: list[int]) -> None:
    """Append `@aggTrade` frames of every symbol that has `@trade` and no `@aggTrade`, each at its last trade's time."""
    by_number = {number: name for name, number in numbers.items()}
    wanted = {
        number: name.removesuffix("@trade") + "@aggTrade"
        for number, name in by_number.items()
        if name.endswith("@trade") and name.removesuffix("@trade") + "@aggTrade" not in numbers
    }
    trades: dict[int, list[tuple[wire.Trade, int]]] = {number: [] for number in wanted}
    for number, frame, recv_ns in zip(names, frames, times):
        if number in wanted:
            trade = wire.TRADE.decode(wire.ENVELOPE.decode(frame).data)
            if trade.X in (None, "MARKET"):
                trades[number].append((trade, recv_ns))
    for number, name in wanted.items():
        numbers[name] = len(numbers)
        for agg_id, group in enumerate(_groups(trades[number], venue == SPOT), FIRST_ID):
            names.append(numbers[name])
            frames.append(_frame(name, venue, agg_id, [trade for trade, _ in group]))
            times.append(group[-1][1])


def _groups(trades: list[tuple[wire.Trade, int]], spot: bool) -> Iterator[list[tuple[wire.Trade, int]]]:
    """Yield the fills of each aggregate: spot those of one taker order at one price, USD-M those of one price and side
    within 100 ms.
    """
    group: list[tuple[wire.Trade, int]] = []
    for trade, recv_ns in trades:
        if group:
            first, last = group[0][0], group[-1][0]
            together = trade.T == first.T and trade.t == last.t + 1 if spot else trade.T - first.T < WINDOW_MS
            if not (together and (trade.p, trade.m) == (first.p, first.m)):
                yield group
                group = []
        group.append((trade, recv_ns))
    if group:
        yield group


def _frame(name: str, venue: str, agg_id: int, trades: list[wire.Trade]) -> bytes:
    first, last = trades[0], trades[-1]
    qty = f"{sum(Decimal(trade.q) for trade in trades):f}"
    more = ',"M":true' if venue == SPOT else f',"nq":"{qty}"'
    return (
        f'{{"stream":"{name}","data":{{"e":"aggTrade","E":{last.E},"s":"{first.s}","a":{agg_id},"p":"{first.p}",'
        f'"q":"{qty}","f":{first.t},"l":{last.t},"T":{last.T},"m":{"true" if first.m else "false"}{more}}}}}'
    ).encode()
