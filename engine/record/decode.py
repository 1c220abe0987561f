"""Binance JSON frames to small records: prices stay the venue's text, times become nanoseconds, ids stay integers."""

from collections.abc import Callable
from functools import lru_cache

import msgspec

from engine.kernel.records import AGGREGATED, MISSING, NOT_MARKET, PARTIAL_DEPTH, SNAPSHOT_LEVEL
from engine.record import wire
from engine.record.wire import Level

USDM, SPOT = "binance_usdm", "binance_spot"
ORDER_SIDES = {"BUY": 1, "SELL": -1}
COIN_M = 2  # `st` of coin-margined contracts, which the all-market streams carry too
EARLIEST_NS, LATEST_NS = 1_420_070_400_000_000_000, 4_102_444_800_000_000_000  # 2015-01-01 .. 2100-01-01


class BadFrame(ValueError):
    """A frame that is not what its stream promises; the message names the stream and the field."""


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One print, or one aggregate of prints (AGGREGATED); side +1 the taker bought, -1 sold."""

    symbol: str
    event_ns: int
    price: str
    qty: str
    side: int
    trade_id: int
    first_id: int
    last_id: int
    bits: int


class Depth(msgspec.Struct, frozen=True):
    """One book message: a diff (bits 0), a whole snapshot (SNAPSHOT_LEVEL) or a top-N frame (PARTIAL_DEPTH)."""

    symbol: str
    event_ns: int
    first_id: int
    last_id: int
    prev_id: int  # update id it continues: futures pu, spot U - 1
    bids: list[Level]
    asks: list[Level]
    bits: int


class Best(msgspec.Struct, frozen=True, gc=False):
    """Best bid and ask."""

    symbol: str
    event_ns: int
    bid_price: str
    bid_qty: str
    ask_price: str
    ask_qty: str
    update_id: int


class Quote(msgspec.Struct, frozen=True, gc=False):
    """A broker's bid and ask; an empty text is a side not known yet."""

    symbol: str
    event_ns: int
    bid_price: str
    ask_price: str
    bits: int


class Liquidation(msgspec.Struct, frozen=True, gc=False):
    """A forced order; side -1 is a sell, so a long was closed."""

    symbol: str
    event_ns: int
    side: int
    price: str
    qty: str
    average_price: str
    filled: str


class Mark(msgspec.Struct, frozen=True, gc=False):
    """Mark and index price with the funding rate; an empty text is a value the venue did not send."""

    symbol: str
    event_ns: int
    mark_price: str
    index_price: str
    funding_rate: str
    next_funding_ns: int


class Kline(msgspec.Struct, frozen=True, gc=False):
    """One bar as it stands; `closed` on its last update."""

    symbol: str
    event_ns: int
    open_ns: int
    close_ns: int
    interval: str
    open: str
    high: str
    low: str
    close: str
    volume: str
    taker_buy: str
    trades: int
    closed: bool


class Other(msgspec.Struct, frozen=True, gc=False):
    """A frame that is known to carry nothing the session stores; `name` is its stream, or "control"."""

    symbol: str
    name: str


Message = Trade | Depth | Best | Quote | Liquidation | Mark | Kline | Other


def stamp_ns(value: int | None) -> int:
    """Return a venue time in ms (13 digits) or us (16 digits) as ns, MISSING for None; raise BadFrame for any other."""
    if value is None:
        return MISSING
    if 1_420_070_400_000 <= value < 4_102_444_800_000:
        return value * 1_000_000
    if 1_420_070_400_000_000 <= value < 4_102_444_800_000_000:
        return value * 1_000
    raise BadFrame(f"venue time {value} is neither milliseconds nor microseconds of a year from 2015 to 2099")


def _match_ns(matched: int | None, pushed: int | None) -> int:
    return stamp_ns(pushed if matched is None else matched)


# {"e":"trade","E":1795000000073,"T":1795000000071,"s":"BTCUSDT","t":7011000200,"p":"95000.10","q":"0.125",
#  "X":"MARKET","m":true,"st":1}
def trade(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read one print; `m` true means the buyer was the maker, so the taker sold."""
    w = wire.TRADE.decode(data)
    bits = NOT_MARKET if w.X is not None and w.X != "MARKET" else 0
    return [Trade(w.s, _match_ns(w.T, w.E), w.p, w.q, -1 if w.m else 1, w.t, w.t, w.t, bits)]


# {"e":"aggTrade","E":1795000000188,"s":"BTCUSDT","a":3012000222,"p":"95000.10","q":"1.250","nq":"1.100",
#  "f":7011000200,"l":7011000209,"T":1795000000071,"m":true,"st":1}
def agg_trade(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read one aggregate of prints; its id is the aggregate's, first and last are raw trade ids."""
    w = wire.AGG_TRADE.decode(data)
    return [Trade(w.s, _match_ns(w.T, w.E), w.p, w.q, -1 if w.m else 1, w.a, w.f, w.l, AGGREGATED)]


# {"e":"depthUpdate","E":1795000000205,"T":1795000000199,"s":"BTCUSDT","U":9111000131,"u":9111000480,
#  "pu":9111000102,"b":[["94999.90","3.120"]],"a":[["95000.20","0.000"]],"ps":"BTCUSDT","st":1}
def diff_depth(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read one book diff; spot has no `pu`, there the update continues U - 1."""
    w = wire.DIFF.decode(data)
    if w.pu is None and venue == USDM:
        raise BadFrame(f"{stream}: Object missing required field `pu`, which every USD-M diff has")
    prev_id = w.U - 1 if w.pu is None else w.pu
    return [Depth(w.s, _match_ns(w.T, w.E), w.U, w.u, prev_id, w.b, w.a, 0)]


# spot   {"lastUpdateId":88000164,"bids":[["94999.99","0.50000"]],"asks":[["95000.03","0.20000"]]}
# USD-M  the same fields as a diff, "e":"depthUpdate" included
def partial_depth(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read a top-N frame: the whole top each time, so it must never be applied as a diff."""
    if venue == SPOT:
        return [_book(data, stream.partition("@")[0].upper(), PARTIAL_DEPTH)]
    w = wire.DIFF.decode(data)
    prev_id = MISSING if w.pu is None else w.pu
    return [Depth(w.s, _match_ns(w.T, w.E), w.U, w.u, prev_id, w.b, w.a, PARTIAL_DEPTH)]


# {"lastUpdateId":9111000200,"E":1795000000150,"T":1795000000141,"bids":[["94999.90","3.000"]],
#  "asks":[["95000.00","0.700"]]}
def snapshot(body: bytes, symbol: str) -> Depth:
    """Read a REST depth body, which names no symbol."""
    try:
        return _book(body, symbol, SNAPSHOT_LEVEL)
    except msgspec.DecodeError as error:
        raise BadFrame(f"depth snapshot of {symbol}: {error}") from None


def _book(body: bytes, symbol: str, bits: int) -> Depth:
    w = wire.BOOK.decode(body)
    return Depth(symbol, _match_ns(w.T, w.E), MISSING, w.lastUpdateId, MISSING, w.bids, w.asks, bits)


# spot   {"u":88000170,"s":"BTCUSDT","b":"94999.99","B":"0.50000","a":"95000.03","A":"0.20000"}
# USD-M  {"e":"bookTicker","u":9111000490,"E":1795000000207,"T":1795000000204,"s":"BTCUSDT","ps":"BTCUSDT",
#         "b":"94999.90","B":"3.120","a":"95000.00","A":"0.740","st":1}
def best(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read a best bid and ask; spot sends no time with it."""
    w = wire.BOOK_TICKER.decode(data)
    if w.st == COIN_M:
        return other(data, venue, stream)
    return [Best(w.s, _match_ns(w.T, w.E), w.b, w.B, w.a, w.A, w.u)]


# {"e":"markPriceUpdate","E":1795000001000,"s":"BTCUSDT","p":"95001.20","ap":"95000.90","P":"95010.00",
#  "i":"95003.40","r":"0.00010000","T":1795017600000,"st":1}
def mark(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read a mark price, or the list of all; `T` is the next funding time, only `E` says when this was."""
    sent = wire.MARK_PRICES.decode(data) if stream.startswith("!") else [wire.MARK_PRICE.decode(data)]
    return [Mark(w.s, stamp_ns(w.E), w.p, w.i, w.r, stamp_ns(w.T or None)) for w in sent if w.st != COIN_M]


# {"e":"forceOrder","E":1795000002004,"o":{"s":"ETHUSDT","S":"SELL","o":"LIMIT","f":"IOC","q":"12.500","p":"3150.10",
#  "ap":"3158.42","X":"FILLED","l":"2.000","z":"12.500","T":1795000002001},"ps":"ETHUSDT","st":1}
def liquidation(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read a forced order; at most one a second and symbol is sent, so sums of them under-count."""
    w = wire.FORCE_ORDER.decode(data)
    if w.st == COIN_M:
        return other(data, venue, stream)
    order = w.o
    if order.S not in ORDER_SIDES:
        raise BadFrame(f"{stream}: side `S` is {order.S!r}, not BUY or SELL")
    event_ns = _match_ns(order.T, w.E)
    return [Liquidation(order.s, event_ns, ORDER_SIDES[order.S], order.p, order.q, order.ap, order.z)]


# {"e":"kline","E":1795000002250,"s":"BTCUSDT","k":{"t":1794999960000,"T":1795000019999,"s":"BTCUSDT","i":"1m",
#  "f":7011000001,"L":7011000209,"o":"94990.0","c":"95000.1","h":"95005.0","l":"94988.2","v":"41.207","n":209,
#  "x":false,"q":"3914000.11","V":"20.100","Q":"1909100.02","B":"0"}}
def kline(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read a bar as it stands."""
    w = wire.KLINE.decode(data)
    k = w.k
    times = stamp_ns(w.E), stamp_ns(k.t), stamp_ns(k.T)
    return [Kline(w.s, *times, k.i, k.o, k.h, k.l, k.c, k.v, k.V, k.n, k.x)]


def other(data: bytes, venue: str, stream: str) -> list[Message]:
    """Pass over a stream the session does not store."""
    return [Other("" if stream.startswith("!") else stream.partition("@")[0].upper(), stream)]


_BY_STREAM = {"trade": trade, "aggTrade": agg_trade, "depth": diff_depth, "bookTicker": best, "forceOrder": liquidation}


@lru_cache(maxsize=4096)
def parser(stream: str) -> Callable[[bytes, str, str], list[Message]]:
    """Return what reads a stream's payload; the name decides, because USD-M top-N frames also say depthUpdate."""
    if stream in ("!bookTicker", "!forceOrder@arr"):
        return best if stream == "!bookTicker" else liquidation
    kind = stream.partition("@")[2].partition("@")[0]
    if stream.startswith("!markPrice@arr") or kind == "markPrice":
        return mark
    if kind in ("depth5", "depth10", "depth20"):
        return partial_depth
    return kline if kind.startswith("kline_") else _BY_STREAM.get(kind, other)


def decode(frame: bytes, venue: str, stream: str | None = None, symbol: str | None = None) -> list[Message]:
    """Read one frame, in its combined-stream envelope or bare with `stream` given; a bare REST body needs `symbol`."""
    try:
        if stream is not None:
            return parser(stream)(frame, venue, stream)
        outer = wire.ENVELOPE.decode(frame)
        stream = outer.stream
        if stream is None:
            return _bare(frame, outer, symbol)
        if not outer.data:
            raise BadFrame(f"{stream}: Object missing required field `data`")
        return parser(stream)(outer.data, venue, stream)
    except msgspec.DecodeError as error:
        raise BadFrame(f"{stream or 'frame'}: {error}") from None


def _bare(frame: bytes, outer: wire.Envelope, symbol: str | None) -> list[Message]:
    if outer.lastUpdateId is not None:
        if symbol is None:
            raise BadFrame("a bare depth snapshot names no symbol, and none is known here")
        return [snapshot(frame, symbol)]
    if outer.e == "serverShutdown" or outer.result or outer.id or outer.error or outer.code is not None:
        return [Other("", "control")]
    raise BadFrame("the frame names no stream; only its stream name tells a diff from a top-N frame")
