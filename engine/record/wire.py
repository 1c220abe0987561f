"""What Binance sends, field for field under its own names; fields not listed here are passed over."""

from typing import Annotated

import msgspec

Level = tuple[str, str]  # price, absolute quantity
Id = Annotated[int, msgspec.Meta(ge=-(1 << 62), lt=1 << 62)]      # the difference of two still fits 64 bits


class Trade(msgspec.Struct, gc=False):
    """`t` trade id, `m` the buyer was the maker, `X` execution type (USD-M only)."""

    s: str
    t: Id
    p: str
    q: str
    m: bool
    T: int | None = None
    E: int | None = None
    X: str | None = None


class AggTrade(msgspec.Struct, gc=False):
    """`a` aggregate id, `f` and `l` first and last trade id."""

    s: str
    a: Id
    p: str
    q: str
    f: Id
    l: Id  # noqa: E741  the venue's own name
    m: bool
    T: int | None = None
    E: int | None = None


class Diff(msgspec.Struct):
    """`U` and `u` first and last update id, `pu` the `u` before (USD-M only); also the USD-M top-N frame."""

    s: str
    U: Id
    u: Id
    b: list[Level]
    a: list[Level]
    pu: Id | None = None
    T: int | None = None
    E: int | None = None


class Book(msgspec.Struct):
    """A REST depth body, and the spot top-N frame."""

    lastUpdateId: Id
    bids: list[Level]
    asks: list[Level]
    T: int | None = None
    E: int | None = None


class BookTicker(msgspec.Struct, gc=False):
    """`u` update id; spot sends no times."""

    s: str
    u: Id
    b: str
    B: str
    a: str
    A: str
    T: int | None = None
    E: int | None = None
    st: int = 1


class MarkPrice(msgspec.Struct, gc=False):
    """`i` index, `r` funding rate, `T` next funding time."""

    s: str
    p: str
    E: int | None = None
    i: str = ""
    r: str = ""
    T: int | None = None
    st: int = 1


class Order(msgspec.Struct, gc=False):
    """`ap` average price, `z` filled so far."""

    s: str
    S: str
    p: str
    q: str
    ap: str
    z: str
    T: int | None = None


class ForceOrder(msgspec.Struct, gc=False):
    """The order lies one level down."""

    o: Order
    E: int | None = None
    st: int = 1


class Bar(msgspec.Struct, gc=False):
    """`t` and `T` open and close time, `V` what takers bought, `x` final."""

    t: int
    T: int
    i: str
    o: str
    h: str
    l: str  # noqa: E741
    c: str
    v: str
    V: str
    n: Id
    x: bool


class Kline(msgspec.Struct, gc=False):
    """The bar lies one level down."""

    s: str
    k: Bar
    E: int | None = None


class Envelope(msgspec.Struct, gc=False):
    """A combined-stream frame, a bare REST body, or an answer to a request."""

    stream: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    lastUpdateId: int | None = None
    e: str | None = None
    result: msgspec.Raw = msgspec.Raw()
    id: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    code: int | None = None


ENVELOPE = msgspec.json.Decoder(Envelope)
TRADE = msgspec.json.Decoder(Trade)
AGG_TRADE = msgspec.json.Decoder(AggTrade)
DIFF = msgspec.json.Decoder(Diff)
BOOK = msgspec.json.Decoder(Book)
BOOK_TICKER = msgspec.json.Decoder(BookTicker)
MARK_PRICE = msgspec.json.Decoder(MarkPrice)
MARK_PRICES = msgspec.json.Decoder(list[MarkPrice])
FORCE_ORDER = msgspec.json.Decoder(ForceOrder)
KLINE = msgspec.json.Decoder(Kline)
