"""Closed positions from the MetaTrader 5 terminal's "Trade History Report", HTML or XLSX."""

import io
import re
import warnings
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import openpyxl

from engine.errors import BadInput
from engine.trades import SIDES, TradePlan, beyond, by_time, civil_ns, decoded, parse_trades_csv, read_bytes

# Time and Price stand twice in the header: first the entry, then the exit
COLUMNS = ("time", "position", "symbol", "type", "volume", "price", "s/l", "t/p", "close time", "close price")
ENGLISH = "set the terminal's language to English"
EXPORT = "in the terminal's History tab choose Report, then HTML or Open XML"

_TIME = re.compile(r"([0-9]{4})\.([0-9]{2})\.([0-9]{2}) ([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?")
_SPACES = re.compile(r"[\s\u00a0\u2007\u2009\u202f]+")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?|[0-9]{1,3}( [0-9]{3})+(\.[0-9]+)?")
_ZIP, _OLD_EXCEL = b"PK", b"\xd0\xcf\x11\xe0"


@dataclass(frozen=True)
class Row:
    """One row of the report: where it stands, and the text of its visible cells."""

    place: str
    cells: list[str]

    def title(self) -> str:
        """Return the text of a row that has a single filled cell, as section headings have, else nothing."""
        filled = [cell for cell in self.cells if cell]
        return filled[0] if len(filled) == 1 else ""


def load_trades(path: Path | str, server_offset_s: int = 0) -> list[TradePlan]:
    """Read trades from a CSV table or a terminal report, told apart by content; no trades at all is bad input.

    `server_offset_s` (seconds the broker's clock is ahead of UTC) applies to reports; a CSV table is in UTC.
    """
    raw = read_bytes(path)
    if raw.startswith((_ZIP, _OLD_EXCEL)):
        plans = _plans(path, _sheet_rows(path, raw), server_offset_s)
    else:
        text = decoded(path, raw)
        if text.lstrip().startswith("<"):
            plans = _plans(path, _page_rows(path, text), server_offset_s)
        else:
            plans = parse_trades_csv(path, text)
    if not plans:
        raise BadInput(f"{path} holds no trades; a table or report with at least one closed position would be right")
    return plans


def read_history_report(path: Path | str, server_offset_s: int) -> list[TradePlan]:
    """Read the closed positions of a Trade History Report, in order of open time and ticket, with their recorded exits.

    The report is in the broker's clock: UTC is its time minus `server_offset_s` seconds. One offset holds for the whole
    report, so a report across a change of the broker's clock must be exported in two parts.

    `sl` and `tp` are the levels the position *ended* with; the report does not say where they were first, and R taken
    from a stop that was moved is not the risk that was taken. A level that cannot have stood at the entry (a stop at
    break-even or in profit) is left out, because the first one is then unknown. Times are whole seconds.
    """
    raw = read_bytes(path)
    if raw.startswith((_ZIP, _OLD_EXCEL)):
        return _plans(path, _sheet_rows(path, raw), server_offset_s)
    text = decoded(path, raw)
    if not text.lstrip().startswith("<"):
        raise BadInput(f"{path} starts with {text.lstrip()[:20]!r}: neither HTML nor XLSX; {EXPORT}")
    return _plans(path, _page_rows(path, text), server_offset_s)


class _Page(HTMLParser):
    """Collects the rows of every table; hidden cells, which only data rows have, are dropped."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.rows: list[Row] = []
        self.open_table = False
        self._cells: list[str] | None = None
        self._text: list[str] | None = None
        self._line = 0

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.open_table = True
        elif tag == "tr":
            self._end_row()
            self._cells, self._line = [], self.getpos()[0]
        elif tag in ("td", "th") and self._cells is not None:
            self._end_cell()
            hidden = "hidden" in (dict(attrs).get("class") or "").split()
            self._text = None if hidden else []

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._end_cell()
        elif tag in ("tr", "table"):
            self._end_row()
            self.open_table = self.open_table and tag != "table"

    def handle_data(self, data):
        if self._text is not None:
            self._text.append(data)

    def _end_cell(self):
        if self._text is not None and self._cells is not None:
            self._cells.append(_clean("".join(self._text)))
        self._text = None

    def _end_row(self):
        self._end_cell()
        if self._cells:
            self.rows.append(Row(f"line {self._line}", self._cells))
        self._cells = None


def _page_rows(path: Path | str, text: str) -> list[Row]:
    page = _Page()
    try:
        page.feed(text)
        page.close()
    except (AssertionError, ValueError) as error:  # some damaged declarations trip the parser itself
        raise BadInput(f"{path}, line {page.getpos()[0]}: damaged HTML ({error}); {EXPORT}") from None
    if page.open_table:
        raise BadInput(f"{path}, line {text.count(chr(10)) + 1}: the file ends inside a table, "
                       f"so it was cut short; {EXPORT}")
    return page.rows


def _sheet_rows(path: Path | str, raw: bytes) -> list[Row]:
    if raw.startswith(_OLD_EXCEL):
        raise BadInput(f"{path} is an old or password-protected Excel file; {EXPORT}, and do not encrypt it")
    book = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a workbook without a default style is remarked on
            book = openpyxl.load_workbook(io.BytesIO(raw), read_only=True, data_only=True)
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # written wrong by some exporters, and then believed
            return [Row(f"row {number}", [_cell_text(value) for value in values])
                    for number, values in enumerate(sheet.iter_rows(values_only=True), 1)]
    except Exception as error:  # openpyxl raises whatever the damage happens to break
        raise BadInput(f"{path} is a damaged workbook or none ({type(error).__name__}: {error}); {EXPORT}") from None
    finally:
        if book is not None:
            book.close()


def _cell_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y.%m.%d %H:%M:%S")
    if isinstance(value, float):
        # the shortest text that means this double is the decimal the sheet was written from
        value = f"{Decimal(repr(value)):f}".removesuffix(".0")
    return _clean(str(value))


def _clean(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


def _plans(path: Path | str, rows: list[Row], server_offset_s: int) -> list[TradePlan]:
    if not -14 * 3600 <= server_offset_s <= 14 * 3600:
        raise BadInput(f"server offset {server_offset_s} s is no clock's; seconds from -50400 to 50400 would be right")
    index, body = _positions(path, rows)
    plans: list[TradePlan] = []
    places: dict[int, str] = {}
    for row in body:
        cells = row.cells + [""] * (max(index.values()) + 1 - len(row.cells))
        values = {name: cells[column] for name, column in index.items()}
        # spacers and the line of sums have no time; other types are no positions
        if not values["time"] or values["type"].lower() not in ("buy", "sell"):
            continue
        try:
            plan = _plan(values, server_offset_s)
        except ValueError as error:
            raise BadInput(f"{path}, {row.place}: {error}") from None
        if plan.ticket in places:
            raise BadInput(f"{path}, {row.place}: position {plan.ticket} is already in {places[plan.ticket]}; "
                           "each position may stand once")
        places[plan.ticket] = row.place
        plans.append(plan)
    return by_time(plans)


def _positions(path: Path | str, rows: list[Row]) -> tuple[dict[str, int], list[Row]]:
    """Return the column of each wanted name, and the rows between the header of Positions and the next section."""
    start = next((i for i, row in enumerate(rows) if row.title().lower() == "positions"), None)
    if start is None:
        raise BadInput(f"{path} has no section Positions; {_what_it_is(rows)}")
    body = [row for row in rows[start + 1:] if any(row.cells)]
    end = next((i for i, row in enumerate(body) if row.title()), len(body))
    body = body[:end]
    if not body:
        raise BadInput(f"{path}, {rows[start].place}: nothing follows the heading Positions, "
                       f"not even its header; {EXPORT}")
    index: dict[str, int] = {}
    for column, cell in enumerate(body[0].cells):
        name = cell.lower().replace(" ", "")
        index.setdefault(f"close {name}" if name in index else name, column)
    missing = [name for name in COLUMNS if name not in index]
    if missing:
        raise BadInput(f"{path}, {body[0].place}: the header of Positions has no {', '.join(missing)}, it is "
                       f"{', '.join(filter(None, body[0].cells))[:200]!r}; {ENGLISH}, then {EXPORT}")
    return {name: index[name] for name in COLUMNS}, body[1:]


def _what_it_is(rows: list[Row]) -> str:
    titles = [row.title() for row in rows if row.title()]
    text = " ".join(titles).lower()
    if "strategy tester report" in text:
        return f"it is a Strategy Tester report, which lists no positions; {EXPORT} of an account's history"
    if "closed transactions" in text:
        return f"it is a MetaTrader 4 statement; {EXPORT} of a MetaTrader 5 account"
    if any(_TIME.fullmatch(row.cells[0]) and len(row.cells) >= len(COLUMNS) for row in rows if row.cells):
        found = ", ".join(repr(title[:40]) for title in titles[:6])
        return f"its headings are {found or 'missing'}: {ENGLISH}, then {EXPORT}"
    return f"it is no Trade History Report; {EXPORT}"


def _plan(values: dict[str, str], server_offset_s: int) -> TradePlan:
    if not re.fullmatch(r"[0-9]{1,19}", values["position"]):
        raise ValueError(f"position {values['position']!r} is no ticket; a whole number would be right")
    side = SIDES[values["type"].lower()]
    price = _number("price", values["price"])
    sl, tp = _number("s/l", values["s/l"], optional=True), _number("t/p", values["t/p"], optional=True)
    return TradePlan(
        ticket=int(values["position"]), symbol=values["symbol"], side=side, volume=_volume(values["volume"]),
        open_ns=_server_ns("time", values["time"], server_offset_s), price=price,
        sl=sl if sl and beyond(sl, price, -side) else None, tp=tp if tp and beyond(tp, price, side) else None,
        close_ns=_server_ns("close time", values["close time"], server_offset_s),
        close_price=_number("close price", values["close price"]))


def _server_ns(name: str, text: str, server_offset_s: int) -> int:
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError("wrong form")
        *fields, fraction = match.groups()
        return civil_ns([int(field or 0) for field in fields], fraction or "", server_offset_s)
    except ValueError as error:
        raise ValueError(f"{name} {text!r} is no server time ({error}); 2026.03.07 09:03:42 would be right") from None


def _number(name: str, text: str, optional: bool = False) -> str | None:
    if optional and not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{name} {text!r} is no number; digits with a decimal point such as 4 106.170 would be right")
    plain = text.replace(" ", "")
    return None if optional and not plain.strip("0.") else plain


def _volume(text: str) -> str:
    """Return the volume closed; where two are written (closed and opened), it is the smaller."""
    return min((_number("volume", part.strip()) for part in text.split("/")), key=Decimal)
