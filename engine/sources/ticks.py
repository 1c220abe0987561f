"""MetaTrader 5 ticks: terminal exports, saved copy_ticks arrays, and collector JSON."""

import io
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import BadInput
from engine.record.decode import BadFrame, Other, Quote
from engine.record.intake import Intake
from engine.sources.files import RecordedFile

VENUE = "mt5"
QUARTER_S = 900
MAX_RESIDUAL_S = 60
MAX_DECIMALS = 8
OFF_GRID = 1e-6           # of the smallest step, how far a float price may lie beside it
_EXPORT_TIME = re.compile(r"(\d{4})\.(\d{2})\.(\d{2})\t(\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,3}))?")
_SYMBOL_IN_NAME = re.compile(r"(.+?)(?:[_-]\d{8}|[_-]ticks|\.(?:csv|txt|tsv|npy|parquet)(?:\.gz)?$|\.zip$|$)")


def mt5_venue(file: RecordedFile, given: str | None) -> str:
    """Return the broker's venue name, whatever venue the other files have."""
    return VENUE


def symbol_in_name(file: RecordedFile, intake: Intake) -> str:
    """Return the symbol asked for, else the file name up to its date."""
    return intake.symbol or _SYMBOL_IN_NAME.match(file.name)[1]


def server_offset_s(ahead_s: Iterable[float], file: RecordedFile) -> int:
    """Return by how many seconds, a multiple of 15 minutes, the broker's clock is ahead of the collector's."""
    median_s = float(np.median(np.fromiter(ahead_s, float)))
    offset_s = round(median_s / QUARTER_S) * QUARTER_S
    if abs(median_s - offset_s) > MAX_RESIDUAL_S:
        raise BadInput(f"{file.path}: the broker's clock is {median_s:.1f} s ahead of the collector's, which is no "
                       "multiple of 15 minutes; one of the two clocks is wrong, give the offset with --server-offset")
    return offset_s


class _Ticks:
    """Puts quotes of one symbol, their server stamps turned into UTC."""

    def __init__(self, file: RecordedFile, intake: Intake, symbol: str, offset_s: int | None):
        self.file, self.intake, self.symbol = file, intake, symbol
        intake.source.notes["server_offset_s"] = offset_s
        self.offset_ns = (offset_s or 0) * 1_000_000_000

    def put(self, line: int, time_msc: int, bid: str, ask: str, collected_msc: int | None = None) -> None:
        event_ns = time_msc * 1_000_000 - self.offset_ns
        self.intake.check_time(line, event_ns, "tick time")
        if collected_msc is None:
            recv_ns = event_ns + self.intake.latency_ns
        else:
            recv_ns = collected_msc * 1_000_000
            self.intake.check_time(line, recv_ns, "collected_msc")
        self.intake.put(line, recv_ns, Quote(self.symbol, event_ns, bid, ask, 0))


def read_json(file: RecordedFile, intake: Intake) -> None:
    """Read a collector's JSON, `{"metadata": {"symbol"}, "ticks": [{"time_msc", "collected_msc", "bid", "ask"}]}`."""
    try:
        body = json.loads(file.content(), parse_float=str, parse_int=str)
        symbol, ticks = body["metadata"]["symbol"], body["ticks"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file.path} is no tick JSON with metadata.symbol and ticks "
                       f"({type(error).__name__}: {error})") from None
    rows = []
    for number, tick in enumerate(ticks, 1):
        try:
            collected = tick.get("collected_msc")
            rows.append((number, int(tick["time_msc"]), _quoted(tick["bid"]), _quoted(tick["ask"]),
                         None if collected is None else int(collected)))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            intake.skip(number, f"tick {number} lacks a usable field ({type(error).__name__}: {error})")
    _put_rows(file, intake, symbol, rows)


def _quoted(text: str) -> str:
    """Return a price text, empty where the broker had none."""
    if not isinstance(text, str):
        raise BadFrame(f"price {text!r} is not a number")
    return text if text.strip("0.") else ""


def _put_rows(file: RecordedFile, intake: Intake, symbol: str, rows: list[tuple]) -> None:
    collected = [row for row in rows if row[4] is not None]
    if collected and len(collected) < len(rows):
        raise BadInput(f"{file.path} has collected_msc on {len(collected)} of {len(rows)} ticks; "
                       "all or none would be right")
    offset_s = intake.server_offset_s
    if collected and offset_s is None:
        offset_s = server_offset_s(((row[1] - row[4]) / 1000 for row in rows), file)
    intake.source.clock = "receive" if collected else "event"
    ticks = _Ticks(file, intake, symbol, offset_s)
    for row in rows:
        ticks.put(*row)


def read_arrays(file: RecordedFile, intake: Intake) -> None:
    """Read a saved `copy_ticks_*` array (.npy or .parquet); rows count as lines, from 1."""
    table = _table(file)
    missing = [name for name in ("time_msc", "bid", "ask") if name not in table]
    if missing:
        raise BadInput(f"{file.path} has no column {' and no '.join(missing)}; "
                       "a copy_ticks array has time_msc, bid and ask")
    decimals = _decimals(file, table)
    bids, asks = (_texts(table[side], decimals) for side in ("bid", "ask"))
    collected = table.get("collected_msc")
    received = [None] * len(bids) if collected is None else [int(x) for x in collected]
    times = [int(x) for x in table["time_msc"]]
    rows = list(zip(range(1, len(bids) + 1), times, bids, asks, received, strict=True))
    _put_rows(file, intake, symbol_in_name(file, intake), rows)


def _table(file: RecordedFile) -> dict[str, np.ndarray]:
    content = file.content()
    try:
        if content.startswith(b"PAR1"):
            table = pq.read_table(io.BytesIO(content))
            return {name: table[name].to_numpy() for name in table.column_names}
        array = np.load(io.BytesIO(content), allow_pickle=False)
        return {name: array[name] for name in array.dtype.names or ()}
    except (ValueError, EOFError, OSError, pa.ArrowException) as error:
        raise BadInput(f"{file.path} cannot be read as an array of ticks ({error}); fetch or save it again") from None


def _decimals(file: RecordedFile, table: dict[str, np.ndarray]) -> int:
    """Return the fewest decimals at which every price is whole, so that a float stands for one exact price."""
    prices = np.concatenate([table["bid"], table["ask"]]).astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(prices) | (prices < 0))
    for decimals in range(MAX_DECIMALS + 1):
        if len(wrong):
            break
        steps = prices * 10**decimals
        wrong_here = np.flatnonzero(np.abs(steps - np.round(steps)) > OFF_GRID)
        if not len(wrong_here):
            return decimals
    index = int(wrong[0] if len(wrong) else wrong_here[0])
    row = index % len(table["bid"]) + 1
    raise BadInput(f"{file.path} row {row}: price {float(prices[index])!r} is not a positive price "
                   f"of at most {MAX_DECIMALS} decimals; a broker's prices lie on a grid")


def _texts(prices: np.ndarray, decimals: int) -> list[str]:
    steps = np.round(prices.astype(np.float64) * 10**decimals).astype(np.int64)
    return ["" if s == 0 else f"{s // 10**decimals}.{s % 10**decimals:0{decimals}d}" if decimals else str(s)
            for s in steps.tolist()]


def read_export(file: RecordedFile, intake: Intake) -> None:
    """Read the terminal's tab-separated export; a blank side has not changed since the line above."""
    ticks = _Ticks(file, intake, symbol_in_name(file, intake), intake.server_offset_s)
    bid = ask = ""
    for number, line in _text_lines(file):
        if number == 1 or not line:
            continue
        when = _EXPORT_TIME.match(line)
        cells = line.split("\t")
        if when is None or len(cells) != 7:
            intake.skip(number, f"{line[:60]!r} is not DATE, TIME, BID, ASK, LAST, VOLUME, FLAGS between tabs")
            continue
        if not cells[2] and not cells[3]:
            intake.put(number, 0, Other(ticks.symbol, "last"))
            continue
        try:
            day = datetime(*(int(x) for x in when.groups()[:6]), tzinfo=UTC)
        except ValueError as error:
            intake.skip(number, f"{line[:24]!r} is no date and time ({error})")
            continue
        bid, ask = cells[2] or bid, cells[3] or ask
        ticks.put(number, int(day.timestamp()) * 1000 + int((when[7] or "0").ljust(3, "0")), bid, ask)


def _text_lines(file: RecordedFile) -> Iterable[tuple[int, str]]:
    if file.content(2) in (b"\xff\xfe", b"\xfe\xff"):
        yield from enumerate(file.content().decode("utf-16", "replace").splitlines(), 1)
        return
    for number, line in file.lines():
        yield number, line.decode("utf-8-sig", "replace")
