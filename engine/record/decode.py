"""Binance JSON frames to small records: prices stay the venue's text, times become nanoseconds, ids stay integers."""

from collections.abc import Callable
from functools import lru_cache

import msgspec

from engine.kernel.records import AGGREGATED, MISSING, NOT_MARKET, PARTIAL_DEPTH, SNAPSHOT_LEVEL

USDM, SPOT = "binance_usdm", "binance_spot"
EARLIEST_NS, LATEST_NS = 1_420_070_400_000_000_000, 4_102_444_800_000_000_000  # 2015-01-01 .. 2100-01-01

Level = tuple[str, str]  # price, absolute quantity


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


class _TradeWire(msgspec.Struct, gc=False):
    s: str
    t: int
    p: str
    q: str
    m: bool
    T: int | None = None
    E: int | None = None
    X: str | None = None


class _AggTradeWire(msgspec.Struct, gc=False):
    s: str
    a: int
    p: str
    q: str
    f: int
    l: int  # noqa: E741  the venue's own name
    m: bool
    T: int | None = None
    E: int | None = None


class _DiffWire(msgspec.Struct):
    s: str
    U: int
    u: int
    b: list[Level]
    a: list[Level]
    pu: int | None = None
    T: int | None = None
    E: int | None = None


class _BookWire(msgspec.Struct):
    lastUpdateId: int
    bids: list[Level]
    asks: list[Level]
    T: int | None = None
    E: int | None = None


class _BestWire(msgspec.Struct, gc=False):
    s: str
    u: int
    b: str
    B: str
    a: str
    A: str
    T: int | None = None
    E: int | None = None


class _MarkWire(msgspec.Struct, gc=False):
    s: str
    p: str
    E: int | None = None
    i: str = ""
    r: str = ""
    T: int | None = None


class _OrderWire(msgspec.Struct, gc=False):
    s: str
    S: str
    p: str
    q: str
    ap: str
    z: str
    T: int | None = None


class _LiquidationWire(msgspec.Struct, gc=False):
    o: _OrderWire
    E: int | None = None


class _BarWire(msgspec.Struct, gc=False):
    t: int
    T: int
    i: str
    o: str
    h: str
    l: str  # noqa: E741
    c: str
    v: str
    V: str
    n: int
    x: bool


class _KlineWire(msgspec.Struct, gc=False):
    s: str
    k: _BarWire
    E: int | None = None


class _Envelope(msgspec.Struct, gc=False):
    stream: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    lastUpdateId: int | None = None
    e: str | None = None
    result: msgspec.Raw | None = None
    id: msgspec.Raw | None = None
    error: msgspec.Raw | None = None
    code: int | None = None


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_TRADE = msgspec.json.Decoder(_TradeWire)
_AGG_TRADE = msgspec.json.Decoder(_AggTradeWire)
_DIFF = msgspec.json.Decoder(_DiffWire)
_BOOK = msgspec.json.Decoder(_BookWire)
_BEST = msgspec.json.Decoder(_BestWire)
_MARK = msgspec.json.Decoder(_MarkWire)
_MARKS = msgspec.json.Decoder(list[_MarkWire])
_LIQUIDATION = msgspec.json.Decoder(_LiquidationWire)
_KLINE = msgspec.json.Decoder(_KlineWire)


# {"e":"trade","E":1795000000073,"T":1795000000071,"s":"BTCUSDT","t":7011000200,"p":"95000.10","q":"0.125","X":"MARKET","m":true}
def trade(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read one print; `m` true means the buyer was the maker, so the taker sold."""
    wire = _TRADE.decode(data)
    bits = NOT_MARKET if wire.X is not None and wire.X != "MARKET" else 0
    return [Trade(wire.s, _match_ns(wire.T, wire.E), wire.p, wire.q, -1 if wire.m else 1, wire.t, wire.t, wire.t, bits)]


# {"e":"aggTrade","E":1795000000188,"s":"BTCUSDT","a":3012000222,"p":"95000.10","q":"1.250","nq":"1.100","f":7011000200,
#  "l":7011000209,"T":1795000000071,"m":true,"st":1}
def agg_trade(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read one aggregate of prints; its id is the aggregate's, first and last are raw trade ids."""
    wire = _AGG_TRADE.decode(data)
    return [Trade(wire.s, _match_ns(wire.T, wire.E), wire.p, wire.q, -1 if wire.m else 1, wire.a, wire.f, wire.l, AGGREGATED)]


# {"e":"depthUpdate","E":1795000000205,"T":1795000000199,"s":"BTCUSDT","U":9111000131,"u":9111000480,"pu":9111000102,
#  "b":[["94999.90","3.120"]],"a":[["95000.20","0.000"]],"ps":"BTCUSDT","st":1}
def diff_depth(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read one book diff; spot has no `pu`, there the update continues U - 1."""
    wire = _DIFF.decode(data)
    if wire.pu is None and venue == USDM:
        raise BadFrame(f"{stream}: Object missing required field `pu`, which every USD-M diff has")
    prev_id = wire.U - 1 if wire.pu is None else wire.pu
    return [Depth(wire.s, _match_ns(wire.T, wire.E), wire.U, wire.u, prev_id, wire.b, wire.a, 0)]


# spot   {"lastUpdateId":88000164,"bids":[["94999.99","0.50000"]],"asks":[["95000.03","0.20000"]]}
# USD-M  the same fields as a diff, "e":"depthUpdate" included
def partial_depth(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read a top-N frame: the whole top each time, so it must never be applied as a diff."""
    if venue == SPOT:
        wire = _BOOK.decode(data)
        symbol = stream.partition("@")[0].upper()
        return [Depth(symbol, _match_ns(wire.T, wire.E), MISSING, wire.lastUpdateId, MISSING, wire.bids, wire.asks, PARTIAL_DEPTH)]
    wire = _DIFF.decode(data)
    prev_id = MISSING if wire.pu is None else wire.pu
    return [Depth(wire.s, _match_ns(wire.T, wire.E), wire.U, wire.u, prev_id, wire.b, wire.a, PARTIAL_DEPTH)]


# {"lastUpdateId":9111000200,"E":1795000000150,"T":1795000000141,"bids":[["94999.90","3.000"]],"asks":[["95000.00","0.700"]]}
def snapshot(body: bytes, symbol: str) -> Depth:
    """Read a REST depth body, which names no symbol."""
    try:
        wire = _BOOK.decode(body)
    except msgspec.DecodeError as error:
        raise BadFrame(f"depth snapshot of {symbol}: {error}") from None
    return Depth(symbol, _match_ns(wire.T, wire.E), MISSING, wire.lastUpdateId, MISSING, wire.bids, wire.asks, SNAPSHOT_LEVEL)


# spot   {"u":88000170,"s":"BTCUSDT","b":"94999.99","B":"0.50000","a":"95000.03","A":"0.20000"}
# USD-M  {"e":"bookTicker","u":9111000490,"E":1795000000207,"T":1795000000204,"s":"BTCUSDT","b":"94999.90","B":"3.120", ...}
def best(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read a best bid and ask; spot sends no time with it."""
    wire = _BEST.decode(data)
    return [Best(wire.s, _match_ns(wire.T, wire.E), wire.b, wire.B, wire.a, wire.A, wire.u)]


# {"e":"markPriceUpdate","E":1795000001000,"s":"BTCUSDT","p":"95001.20","ap":"95000.90","P":"95010.00","i":"95003.40",
#  "r":"0.00010000","T":1795017600000,"st":1}
def mark(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read a mark price; `T` is the next funding time, only `E` says when this was."""
    wires = _MARKS.decode(data) if stream.startswith("!") else [_MARK.decode(data)]
    return [Mark(w.s, stamp_ns(w.E), w.p, w.i, w.r, stamp_ns(w.T or None)) for w in wires]


# {"e":"forceOrder","E":1795000002004,"o":{"s":"ETHUSDT","S":"SELL","o":"LIMIT","f":"IOC","q":"12.500","p":"3150.10",
#  "ap":"3158.42","X":"FILLED","l":"2.000","z":"12.500","T":1795000002001},"ps":"ETHUSDT","st":1}
def liquidation(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read a forced order; at most one a second and symbol is sent, so sums of them under-count."""
    wire = _LIQUIDATION.decode(data)
    order = wire.o
    if order.S not in ("BUY", "SELL"):
        raise BadFrame(f"{stream}: side `S` is {order.S!r}, not BUY or SELL")
    return [Liquidation(order.s, _match_ns(order.T, wire.E), 1 if order.S == "BUY" else -1, order.p, order.q, order.ap, order.z)]


# {"e":"kline","E":1795000002250,"s":"BTCUSDT","k":{"t":1794999960000,"T":1795000019999,"s":"BTCUSDT","i":"1m","f":7011000001,
#  "L":7011000209,"o":"94990.0","c":"95000.1","h":"95005.0","l":"94988.2","v":"41.207","n":209,"x":false,"q":"3914000.11",
#  "V":"20.100","Q":"1909100.02","B":"0"}}
def kline(data: bytes, venue: str, stream: str) -> list[Message]:
    """Read a bar as it stands."""
    wire = _KLINE.decode(data)
    k = wire.k
    return [Kline(wire.s, stamp_ns(wire.E), stamp_ns(k.t), stamp_ns(k.T), k.i, k.o, k.h, k.l, k.c, k.v, k.V, k.n, k.x)]


def other(data: bytes, venue: str, stream: str) -> list[Message]:
    """Pass over a stream the session does not store."""
    return [Other(stream.partition("@")[0].upper(), stream)]


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
        if stream is None:
            outer = _ENVELOPE.decode(frame)
            stream, data = outer.stream, outer.data
            if stream is None:
                return _bare(frame, outer, symbol)
            if not data:
                raise BadFrame(f"{stream}: Object missing required field `data`")
            return parser(stream)(data, venue, stream)
        return parser(stream)(frame, venue, stream)
    except msgspec.DecodeError as error:
        raise BadFrame(f"{stream or 'frame'}: {error}") from None


def _bare(frame: bytes, outer: _Envelope, symbol: str | None) -> list[Message]:
    if outer.lastUpdateId is not None:
        if symbol is None:
            raise BadFrame("a bare depth snapshot names no symbol, and none is known here")
        return [snapshot(frame, symbol)]
    if outer.e == "serverShutdown" or any(x is not None for x in (outer.result, outer.id, outer.error, outer.code)):
        return [Other("", "control")]
    raise BadFrame("the frame names no stream; only its stream name tells a diff from a top-N frame")
