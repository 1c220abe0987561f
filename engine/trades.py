"""The positions a replay protects: their record, and the CSV table they are read from and written to."""

import csv
import io
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path

from engine.errors import BadInput, SourceFailed, nearest
from engine.instruments import scaled
from engine.record.store import write_text_atomic

REQUIRED = ("ticket", "symbol", "side", "volume", "open_time", "price", "sl", "tp")
OPTIONAL = ("close_time", "close_price", "sl_bps", "tp_bps", "max_s")
IGNORED = {"comment", "magic", "commission", "swap", "fee", "profit", "reason", "external_id"}
SIDES = {"buy": 1, "long": 1, "1": 1, "+1": 1, "sell": -1, "short": -1, "-1": -1}

_I64_MAX = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_DECIMAL = re.compile(r"-?[0-9]{0,24}\.?[0-9]{1,24}")
_EPOCH_TEXT = re.compile(r"([0-9]+)(\.[0-9]+)?")
_EPOCH_DECIMALS = {9: 9, 10: 9, 12: 6, 13: 6, 15: 3, 16: 3, 18: 0, 19: 0}  # digits of the whole part -> decimals to ns
_ISO = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?"
                  r"\s?(?:([Zz])|([+-])([0-9]{2}):?([0-9]{2}))?")
_ISO_HINT = "write ISO 8601 (UTC unless it names a zone) such as 2026-03-07T09:03:42Z, or epoch s, ms, us or ns"


@dataclass(frozen=True)
class TradePlan:
    """One position to replay: how it opens, what protects it, and how it really ended when that is known.

    Times are UTC nanoseconds since 1970; volume is in lots and prices in quote currency, both as exact decimal text.
    `sl` and `tp` are the levels at entry; a distance in bps is taken from the price the position is opened at.
    `close_ns` without `close_price` means closed at the quote. Raises ValueError on what cannot be a position.
    """

    ticket: int                        # unique in a list
    symbol: str
    side: int                          # +1 long, -1 short
    volume: str
    open_ns: int
    price: str | None = None           # None: at the quote of open_ns (long at the ask, short at the bid)
    sl: str | None = None
    tp: str | None = None
    close_ns: int | None = None
    close_price: str | None = None
    sl_bps: Fraction | None = None     # instead of sl
    tp_bps: Fraction | None = None     # instead of tp
    max_hold_ns: int | None = None     # closed at the quote this long after open_ns

    def __post_init__(self):
        if not 0 < self.ticket <= _I64_MAX:
            raise ValueError(f"ticket {self.ticket} is no position number; a whole number above 0 is")
        if not self.symbol.strip() or self.symbol != self.symbol.strip() or not self.symbol.isprintable():
            raise ValueError(f"symbol {self.symbol!r} is no symbol name such as BTCUSD")
        if self.side not in (1, -1):
            raise ValueError(f"side {self.side!r} is neither +1 (long) nor -1 (short)")
        for name in ("volume", "price", "sl", "tp", "close_price"):
            text = getattr(self, name)
            if name == "volume" or text is not None:
                _positive(name, text)
        for name, value in (("open_time", self.open_ns), ("close_time", self.close_ns)):
            if value is not None and not 0 < value <= _I64_MAX:
                raise ValueError(f"{name} {value} ns is outside the years 1970 to 2262")
        if self.max_hold_ns is not None and not 0 < self.max_hold_ns <= _I64_MAX:
            raise ValueError(f"longest hold {self.max_hold_ns} ns is not above 0 and below 292 years")
        self._check_exit()
        self._check_levels()

    def _check_exit(self) -> None:
        if self.close_ns is None and self.close_price is not None:
            raise ValueError(f"close_price {self.close_price} has no close_time; give both or leave both blank")
        if self.close_ns is not None and self.close_ns < self.open_ns:
            raise ValueError(f"close_time {utc_text(self.close_ns)} is before open_time {utc_text(self.open_ns)}; "
                             "it must be the same or later")

    def _check_levels(self) -> None:
        for level, name in (("sl", "sl_bps"), ("tp", "tp_bps")):
            bps = getattr(self, name)
            if bps is not None and getattr(self, level) is not None:
                raise ValueError(f"{level} {getattr(self, level)} and {name} {bps} are both given; give one of them")
            if bps is not None and not 0 < bps < 10_000:
                raise ValueError(f"{name} {bps} is not between 0 and 10000 (100 %)")
        for name, way in (("sl", -self.side), ("tp", self.side)):
            level = getattr(self, name)
            if self.price is not None and level is not None and not beyond(level, self.price, way):
                raise ValueError(f"{name} {level} is on the wrong side of the entry {self.price}: for a "
                                 f"{side_text(self.side)} it must be {'above' if way > 0 else 'below'}")
        if self.sl is not None and self.tp is not None and not beyond(self.tp, self.sl, self.side):
            raise ValueError(f"sl {self.sl} and tp {self.tp} are the wrong way round for a {side_text(self.side)}: "
                             f"tp must be {'above' if self.side > 0 else 'below'} sl")


def beyond(level: str, reference: str, way: int) -> bool:
    """Return whether a price lies strictly above (way +1) or below (way -1) another."""
    return (Fraction(level) - Fraction(reference)) * way > 0


def side_text(side: int) -> str:
    """Return the word for a side as the broker writes it."""
    return "buy" if side > 0 else "sell"


def by_time(plans: list[TradePlan]) -> list[TradePlan]:
    """Return plans in the order a replay opens them: open time, then ticket."""
    return sorted(plans, key=lambda plan: (plan.open_ns, plan.ticket))


def civil_ns(fields: list[int], fraction: str = "", offset_s: int = 0) -> int:
    """Return UTC nanoseconds of year, month, day, hour, minute, second on a clock `offset_s` ahead of UTC."""
    whole_s = (datetime(*fields, tzinfo=timezone.utc) - _EPOCH) // timedelta(seconds=1) - offset_s
    return whole_s * 10**9 + int(fraction.ljust(9, "0") or 0)


def time_ns(text: str) -> int:
    """Return UTC nanoseconds of an ISO 8601 time or of an epoch in s, ms, us or ns, told by its number of digits."""
    if match := _EPOCH_TEXT.fullmatch(text):
        digits = len(match[1])
        if digits not in _EPOCH_DECIMALS:
            raise ValueError(f"{text!r} has {digits} digits, no epoch time has; {_ISO_HINT}")
        return scaled(text, _EPOCH_DECIMALS[digits])
    match = _ISO.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time; {_ISO_HINT}")
    *fields, fraction, _, sign, hours, minutes = match.groups()
    offset_s = int(f"{sign}1") * (int(hours) * 3600 + int(minutes) * 60) if sign else 0
    try:
        if sign and (int(hours) > 14 or int(minutes) > 59):
            raise ValueError("zones reach from -14:00 to +14:00")
        return civil_ns([int(field or 0) for field in fields], fraction or "", offset_s)
    except ValueError as error:
        raise ValueError(f"{text!r} is no time ({error}); {_ISO_HINT}") from None


def utc_text(time_ns: int) -> str:
    """Return nanoseconds as ISO 8601 in UTC, exactly, with no trailing zeros."""
    whole_s, rest_ns = divmod(time_ns, 10**9)
    fraction = f".{rest_ns:09d}".rstrip("0").rstrip(".")
    return f"{(_EPOCH + timedelta(seconds=whole_s)).replace(tzinfo=None).isoformat()}{fraction}Z"


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes, or raise BadInput saying why it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); name a file of trades that exists") from None


def decoded(path: Path, raw: bytes) -> str:
    """Return the text of a file in UTF-16 (byte order mark or zero bytes between) or UTF-8, without its mark."""
    encoding = "utf-8-sig"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif raw[1:2] == b"\0":
        encoding = "utf-16-le"
    elif raw[:1] == b"\0":
        encoding = "utf-16-be"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}, byte {error.start}: not {encoding.upper().removesuffix('-SIG')} text; the file is "
                       "cut short or no text, export it again as UTF-8 or UTF-16") from None
    if "\0" in text:
        raise BadInput(f"{path}, character {text.index(chr(0))}: a zero byte; this is no text file, export it again")
    return text


def read_trades_csv(path: Path | str) -> list[TradePlan]:
    """Read a table of trades in order of open time and ticket; raise BadInput naming the line and value that is wrong.

    Columns: ticket, symbol, side, volume (lots), open_time, price, sl, tp, and if wanted close_time, close_price (or
    close), sl_bps, tp_bps, max_s (seconds). Blank price: at the quote. Blank or 0 sl and tp: none. Separated by comma,
    semicolon or tab; decimals with a point.
    """
    return parse_trades_csv(path, decoded(path, read_bytes(path)))


def parse_trades_csv(path: Path | str, text: str) -> list[TradePlan]:
    """Read a table of trades from text already decoded; `path` is only named in errors."""
    first_line = text.lstrip().split("\n", 1)[0]
    separator = max(",;\t", key=first_line.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns: list[str] = []
    lines: dict[int, int] = {}
    plans = []
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not columns:
                columns = _columns(path, rows.line_num, cells)
                continue
            place = f"{path}, line {rows.line_num}"
            if len(cells) != len(columns):
                raise BadInput(f"{place}: {len(cells)} values ({separator.join(row)[:80]!r}), "
                               f"the header has {len(columns)} columns")
            plan = _plan(place, dict(zip(columns, cells)))
            if plan.ticket in lines:
                raise BadInput(f"{place}: ticket {plan.ticket} is already on line {lines[plan.ticket]}; "
                               "each ticket may stand once")
            lines[plan.ticket] = rows.line_num
            plans.append(plan)
    except csv.Error as error:
        raise BadInput(f"{path}, line {rows.line_num}: not a CSV row ({error}); one trade a line with the columns "
                       f"{', '.join(REQUIRED)} would be right") from None
    if not columns:
        raise BadInput(f"{path} is empty; its first line must name the columns {', '.join(REQUIRED)}")
    return by_time(plans)


def write_trades_csv(path: Path | str, plans: list[TradePlan]) -> None:
    """Write plans as a table that `read_trades_csv` reads back equal; the file is replaced whole or not at all."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(REQUIRED + OPTIONAL)
    for plan in by_time(plans):
        writer.writerow([plan.ticket, plan.symbol, side_text(plan.side), plan.volume, utc_text(plan.open_ns),
                         plan.price, plan.sl, plan.tp, None if plan.close_ns is None else utc_text(plan.close_ns),
                         plan.close_price, plan.sl_bps, plan.tp_bps, _seconds_text(plan.max_hold_ns)])
    try:
        write_text_atomic(Path(path), out.getvalue())
    except OSError as error:
        raise SourceFailed(f"{path} cannot be written ({error.strerror}); "
                           "name a file in a folder that exists") from None


def _columns(path: Path | str, line: int, cells: list[str]) -> list[str]:
    names = ["close_price" if cell.lower() == "close" else cell.lower() for cell in cells]
    known = (*REQUIRED, *OPTIONAL)
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise BadInput(f"{path}, line {line}: no column {', '.join(missing)}; "
                       f"the header must name {', '.join(REQUIRED)}, it is {', '.join(cells)[:160]!r}")
    for name in names:
        if name not in known and name not in IGNORED:
            raise BadInput(f"{path}, line {line}: unknown column {name!r}; {nearest(name, known)}")
        if names.count(name) > 1:
            raise BadInput(f"{path}, line {line}: column {name!r} stands twice; each may stand once")
    return names


def _plan(place: str, cells: dict[str, str]) -> TradePlan:
    side = SIDES.get(cells["side"].lower())
    if side is None:
        raise BadInput(f"{place}: side {cells['side']!r} is unknown; buy, sell, long, short, 1 or -1 would be right")
    if not re.fullmatch(r"[0-9]{1,19}", cells["ticket"]):
        raise BadInput(f"{place}: ticket {cells['ticket']!r} is no whole number such as 1001")
    get = cells.get
    try:
        return TradePlan(
            ticket=int(cells["ticket"]), symbol=cells["symbol"], side=side, volume=cells["volume"],
            open_ns=_time("open_time", cells["open_time"]), price=get("price") or None,
            sl=_level("sl", cells["sl"]), tp=_level("tp", cells["tp"]),
            close_ns=_time("close_time", cells["close_time"]) if get("close_time") else None,
            close_price=get("close_price") or None,
            sl_bps=_fraction("sl_bps", get("sl_bps")), tp_bps=_fraction("tp_bps", get("tp_bps")),
            max_hold_ns=_seconds("max_s", get("max_s")))
    except ValueError as error:
        raise BadInput(f"{place}: {error}") from None


def _time(name: str, text: str) -> int:
    try:
        return time_ns(text)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _positive(name: str, text: str) -> Fraction:
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{name} {text!r} is no decimal number such as 0.10")
    if (value := Fraction(text)) <= 0:
        raise ValueError(f"{name} {text} is not above 0")
    return value


def _level(name: str, text: str) -> str | None:
    return None if not text or (_DECIMAL.fullmatch(text) and Fraction(text) == 0) else text


def _fraction(name: str, text: str | None) -> Fraction | None:
    if not text:
        return None
    if re.fullmatch(r"[0-9]{1,24}/[0-9]*[1-9][0-9]*", text):
        return Fraction(text)
    return _positive(name, text)


def _seconds(name: str, text: str | None) -> int | None:
    if not text:
        return None
    value_ns = _positive(name, text) * 10**9
    if value_ns.denominator != 1:
        raise ValueError(f"{name} {text} is finer than a nanosecond; at most 9 decimals would be right")
    return value_ns.numerator


def _seconds_text(value_ns: int | None) -> str | None:
    if value_ns is None:
        return None
    whole_s, rest_ns = divmod(value_ns, 10**9)
    return f"{whole_s}.{rest_ns:09d}".rstrip("0").rstrip(".")
