"""What a journaled frame becomes: market messages, or one feed row; the live loop and the conversion both ask here.

Every frame becomes at least one row, so that seq stays dense: one that carries nothing stored is a `note`, a malformed
one of a stream the kernel folds is a `gap` of that stream.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from engine.instruments import Instrument
from engine.kernel.records import AGGREGATED, REFILLED
from engine.record.decode import BadFrame, Message, Other, Quote, Trade, decode, snapshot, stamp_ns
from engine.record.own import READERS as OWN_READERS
from engine.record.own import Own
from engine.record.segment import CONTROL, FRAME, INSTRUMENTS, QUOTE, REST, TIMER, Frame, Origin
from engine.record.wire import Id

CODES = ("connected", "lost", "gap", "resync", "stale", "note")
STREAMS = ("", "trades", "depth", "best", "quotes")
TABLE_OF = {"trade": "trades", "aggTrade": "trades", "depth": "depth", "bookTicker": "best"}
_STREAM = re.compile(rb'"stream"\s*:\s*"([^"]{1,200})"')
_RAW = re.compile(r"/ws/([^/?]+)$")


class Feed(NamedTuple):
    """One row of the feed table."""

    code: str
    stream: str = ""
    symbol: str | None = None
    from_id: int | None = None
    to_id: int | None = None
    detail: str = ""
    malformed: bool = False


_TIMER = Feed("timer")


class Marker(msgspec.Struct):
    """The payload of a CONTROL frame."""

    code: str
    symbol: str | None = None
    stream: str = ""
    from_id: Id | None = None
    to_id: Id | None = None
    detail: str = ""


class BrokerQuote(msgspec.Struct):
    """The payload of a QUOTE frame: prices as decimal text, empty where the broker has none; `event_ns` is UTC."""

    symbol: str
    bid: str
    ask: str
    event_ns: Id | None = None


class Request(msgspec.Struct):
    """What a REST answer answers; of trades only ids from `from_id` to `to_id` are taken where they are given."""

    url: str
    sent_ns: int
    status: int = 200
    from_id: int | None = None
    to_id: int | None = None


class Print(msgspec.Struct):
    """A trade as REST gives it."""

    id: Id
    price: str
    qty: str
    time: int
    isBuyerMaker: bool


class Aggregate(msgspec.Struct):
    """An aggregate trade as REST gives it."""

    a: Id
    p: str
    q: str
    f: Id
    l: Id  # noqa: E741  the venue's own name
    T: int
    m: bool


class Filter(msgspec.Struct):
    """One filter of exchangeInfo."""

    filterType: str
    tickSize: str = ""
    stepSize: str = ""


class Listing(msgspec.Struct):
    """One symbol of exchangeInfo."""

    symbol: str
    filters: list[Filter]


class ExchangeInfo(msgspec.Struct):
    """The part of exchangeInfo that is used."""

    symbols: list[Listing]


_MARKER, _QUOTE, _REQUEST = (msgspec.json.Decoder(kind) for kind in (Marker, BrokerQuote, Request))
_PRINTS, _AGGREGATES = msgspec.json.Decoder(list[Print]), msgspec.json.Decoder(list[Aggregate])
_EXCHANGE_INFO = msgspec.json.Decoder(ExchangeInfo)


def rest_payload(request: Request, body: bytes) -> bytes:
    """Return the payload of a REST frame: a line that says what was asked, then the body as it came."""
    return msgspec.json.encode(request) + b"\n" + body


def rest_parts(payload: bytes) -> tuple[Request, bytes]:
    """Return the request and the body of a REST frame."""
    line, _, body = payload.partition(b"\n")
    return _REQUEST.decode(line), body


def read_frame(frame: Frame, origins: Sequence[Origin]) -> list[Message] | Feed | Own:
    """Return the messages of a frame, the rows the engine itself wrote, or the feed row it is where it has neither."""
    if frame.kind == TIMER:
        return _TIMER
    origin = origins[frame.source] if frame.source < len(origins) else Origin("unknown", "")
    try:
        if frame.kind in OWN_READERS:
            return OWN_READERS[frame.kind](frame.payload)
        messages = _READERS[frame.kind](frame.payload, origin) if frame.kind in _READERS else []
    except (BadFrame, msgspec.DecodeError) as error:
        return malformed(frame, origin, str(error))
    if isinstance(messages, Feed):
        return messages
    stored = [m for m in messages if type(m) is not Other]
    if any(not m.symbol for m in stored):
        return malformed(frame, origin, "a message names no symbol")
    return stored or Feed("note", detail=messages[0].name if messages else f"nothing stored of kind {frame.kind}")


def malformed(frame: Frame, origin: Origin, reason: str) -> Feed:
    """Return the feed row of a frame that cannot be read: a gap of its stream, of every stream where none is known."""
    if frame.kind != FRAME:
        return Feed("note", detail=reason, malformed=True)
    found = _STREAM.search(frame.payload[:400])
    stream = found[1].decode(errors="replace") if found else _raw_stream(origin)
    if stream is None:
        return Feed("gap", detail=f"malformed: {reason}", malformed=True)
    symbol, kind = (stream.split("@") + [""])[:2]
    return lost_message(symbol.upper(), TABLE_OF.get(kind), reason)


def lost_message(symbol: str, table: str | None, reason: str) -> Feed:
    """Return the feed row that stands for a message that could not be stored; only streams of the kernel have gaps."""
    if table not in STREAMS:
        return Feed("note", detail=f"malformed: {reason}", malformed=True)
    return Feed("gap", table, symbol or None, detail=f"malformed: {reason}", malformed=True)


def _raw_stream(origin: Origin) -> str | None:
    found = _RAW.search(origin.url)
    return found[1] if found else None


def _read_socket(payload: bytes, origin: Origin) -> list[Message]:
    return decode(payload, origin.venue, _raw_stream(origin))


def _read_marker(payload: bytes, origin: Origin) -> Feed:
    m = _MARKER.decode(payload)
    if m.code not in CODES or m.stream not in STREAMS:
        raise BadFrame(f"marker {m.code!r} of stream {m.stream!r} is not known")
    return Feed(m.code, m.stream, m.symbol, m.from_id, m.to_id, m.detail)


def _read_quote(payload: bytes, origin: Origin) -> list[Message]:
    q = _QUOTE.decode(payload)
    return [Quote(q.symbol, stamp_ns(None) if q.event_ns is None else q.event_ns, q.bid, q.ask, 0)]


def _read_rest(payload: bytes, origin: Origin) -> list[Message]:
    request, body = rest_parts(payload)
    address = urlsplit(request.url)
    name = address.path.rpartition("/")[2]
    symbol = parse_qs(address.query).get("symbol", [""])[0]
    if request.status != 200:
        return [Other(symbol, f"{name} answered {request.status}")]
    if name == "depth":
        return [snapshot(body, symbol)]
    if name not in ("trades", "historicalTrades", "aggTrades"):
        return [Other(symbol, name)]
    low = -(2**63) if request.from_id is None else request.from_id
    high = 2**63 if request.to_id is None else request.to_id
    if name == "aggTrades":
        return [Trade(symbol, stamp_ns(w.T), w.p, w.q, -1 if w.m else 1, w.a, w.f, w.l, AGGREGATED | REFILLED)
                for w in _AGGREGATES.decode(body) if low <= w.a <= high]
    return [Trade(symbol, stamp_ns(w.time), w.price, w.qty, -1 if w.isBuyerMaker else 1, w.id, w.id, w.id, REFILLED)
            for w in _PRINTS.decode(body) if low <= w.id <= high]


def _no_messages(payload: bytes, origin: Origin) -> list[Message]:
    return [Other("", "instruments")]


_READERS = {FRAME: _read_socket, REST: _read_rest, CONTROL: _read_marker, QUOTE: _read_quote, INSTRUMENTS: _no_messages}


def given_instruments(frame: Frame) -> list[Instrument]:
    """Return the instruments of an INSTRUMENTS frame, none when it is not understood."""
    try:
        return [Instrument(**row) for row in json.loads(frame.payload)]
    except (ValueError, TypeError):
        return []


def listed_steps(frame: Frame) -> dict[str, tuple[str, str]]:
    """Return tick and lot size by symbol where a REST frame is exchangeInfo, nothing for any other."""
    try:
        request, body = rest_parts(frame.payload)
        if not urlsplit(request.url).path.endswith("/exchangeInfo") or request.status != 200:
            return {}
        found = {}
        for entry in _EXCHANGE_INFO.decode(body).symbols:
            tick = [f.tickSize for f in entry.filters if f.filterType == "PRICE_FILTER" and f.tickSize.strip("0.")]
            lot = [f.stepSize for f in entry.filters if f.filterType == "LOT_SIZE" and f.stepSize.strip("0.")]
            if tick and lot:
                found[entry.symbol] = (tick[0], lot[0])
        return found
    except msgspec.DecodeError:
        return {}
