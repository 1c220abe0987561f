"""Which format a recorded file has, told from its content."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import BadInput
from engine.record.intake import Intake
from engine.sources import archive, captures, tardis, ticks
from engine.sources.files import RecordedFile

KNOWN = ("hftbacktest capture lines, cryptofeed captures, Binance archive trades, aggTrades, bookTicker and klines, "
         "trade CSV (timestamp,price,quantity,side,tradeId), tardis.dev CSV, and MT5 ticks as terminal export, .npy, "
         ".parquet or JSON")


@dataclass(frozen=True)
class Format:
    """How to read a file: its name, whose clock it holds, how to tell its venue, and what reads it."""

    name: str
    clock: str                                            # receive | event
    venue: Callable[[RecordedFile, str | None], str]      # from the file and --venue
    read: Callable[[RecordedFile, Intake], None]


HFTBACKTEST = Format("hftbacktest", "receive", captures.probe_venue, captures.read_hftbacktest)
CRYPTOFEED = Format("cryptofeed", "receive", captures.probe_venue, captures.read_cryptofeed)
ARCHIVE = Format("binance-archive", "event", archive.archive_venue, archive.read_archive)
TRADE_CSV = Format("trade-csv", "event", archive.trade_csv_venue, archive.read_trade_csv)
TARDIS = Format("tardis", "receive", tardis.tardis_venue, tardis.read_tardis)
MT5_JSON = Format("mt5-json", "receive", ticks.mt5_venue, ticks.read_json)
MT5_ARRAY = Format("mt5-array", "event", ticks.mt5_venue, ticks.read_arrays)
MT5_EXPORT = Format("mt5-export", "event", ticks.mt5_venue, ticks.read_export)

_START = [
    (re.compile(rb"\d+ +\{"), HFTBACKTEST),
    (re.compile(rb"configuration: |wss?://\S+ <-> |https?://\S+ -> [0-9.]+: |\d+\.\d*: ?\{"), CRYPTOFEED),
    (re.compile(rb"PAR1|\x93NUMPY"), MT5_ARRAY),
    (re.compile(rb"(\xef\xbb\xbf)?<DATE>\t<TIME>\t<BID>"), MT5_EXPORT),
    (re.compile("\ufeff<DATE>\t<TIME>\t<BID>".encode("utf-16-le")), MT5_EXPORT),
    (re.compile(rb"\s*\{\s*\"metadata\"\s*:"), MT5_JSON),
]


def sniff(file: RecordedFile) -> Format:
    """Return the format of a file, or raise BadInput naming the formats there are."""
    start = file.content(4096)
    if not start.strip():
        raise BadInput(f"{file.path} is empty once unpacked; there is nothing in it to import")
    for pattern, found in _START:
        if pattern.match(start):
            return found
    first = start.splitlines()[0].decode("ascii", "replace")
    if first == archive.TRADE_CSV_HEADER:
        return TRADE_CSV
    if first in (tardis.BOOK, tardis.TRADES, tardis.BEST):
        return TARDIS
    if archive.kind_of(first):
        return ARCHIVE
    if what := archive.refused(first):
        raise BadInput(f"{file.path} is Binance archive {what}; it cannot be imported")
    raise BadInput(f"{file.path} begins with {first[:60]!r}, which is no format known here; known: {KNOWN}")
