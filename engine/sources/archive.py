"""Files of the Binance public archive, and trade CSV files with venue time and trade ids."""

import re

from engine.errors import BadInput
from engine.kernel.records import AGGREGATED
from engine.record.decode import SPOT, USDM, Best, Kline, Message, Trade
from engine.record.intake import Intake
from engine.sources.files import RecordedFile
from engine.sources.rows import Rows, side_of, truth, whole

AGG_TRADE_DELAY_NS = 100_000_000        # USD-M aggregates are held up to 100 ms
HEADERS_SINCE_MS = 1_660_176_000_000    # 2022-08-11: futures files have a header from here on
TRADE_CSV_HEADER = "timestamp,price,quantity,side,tradeId"
HEADERS = {
    "id,price,qty,quote_qty,time,is_buyer_maker": "trades",
    "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker": "aggTrades",
    "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time": "bookTicker",
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,"
    "taker_buy_volume,taker_buy_quote_volume,ignore": "klines",
}
NOT_TAKEN = {
    "timestamp,percentage,depth,notional": "bookDepth, which sums the book into percentage bands and holds no levels",
    "create_time,symbol,sum_open_interest": "metrics, which holds no trades or book",
    "time,side,order_type,time_in_force": "liquidationSnapshot, which was withdrawn by its publisher",
    "calc_time,funding_interval_hours": "fundingRate, which holds no trades or book",
}
_NAME = re.compile(r"([^\s-]+)-(trades|aggTrades|bookTicker|[0-9]+(?:s|m|h|d|w|mo))-[0-9]{4}-[0-9]{2}")
_TRADE_CSV_NAME = re.compile(r"([A-Z0-9]+)[_-]")
_TRUTH = ("true", "false", "True", "False")


def kind_of(first_line: str) -> str | None:
    """Return trades, aggTrades, bookTicker or klines for a header or first row of the archive, else None."""
    if first_line in HEADERS:
        return HEADERS[first_line]
    cells = first_line.split(",")
    if not cells[0].isdigit():
        return None
    if len(cells) in (6, 7) and cells[5] in _TRUTH:
        return "trades"
    if len(cells) in (7, 8) and cells[6] in _TRUTH:
        return "aggTrades"
    return {7: "bookTicker", 12: "klines"}.get(len(cells))


def refused(first_line: str) -> str | None:
    """Return what an archive file is that cannot be imported, or None."""
    return next((what for start, what in NOT_TAKEN.items() if first_line.startswith(start)), None)


def _first_line(file: RecordedFile) -> str:
    return file.head()[0].decode("ascii", "replace").removeprefix("\ufeff")


def archive_venue(file: RecordedFile, given: str | None) -> str:
    """Return the venue an archive file is of: only spot rows tell the best match, only futures files have a header."""
    first = _first_line(file)
    kind, cells = kind_of(first), first.split(",")
    if first in HEADERS or kind == "bookTicker":
        found = USDM
    elif kind == "trades":
        found = SPOT if len(cells) == 7 else USDM
    elif kind == "aggTrades":
        found = SPOT if len(cells) == 8 else USDM
    elif given or len(cells[0]) == 13 and int(cells[0]) < HEADERS_SINCE_MS:
        found = given
    else:
        found = SPOT
    if found is None:
        raise BadInput(f"{file.path} has bars of before 2022-08-11 and no header, which spot and futures files share; "
                       f"say which with --venue {USDM} or --venue {SPOT}")
    if given and given != found:
        raise BadInput(f"{file.path} is a file of {found}, not of {given} as asked with --venue")
    return found


def trade_csv_venue(file: RecordedFile, given: str | None) -> str:
    """Return the venue of a plain trade file, which names none: spot unless told."""
    return given or SPOT


def read_archive(file: RecordedFile, intake: Intake) -> None:
    """Read trades, aggTrades, bookTicker or klines; the symbol and the bar length stand in the file name."""
    first = _first_line(file)
    kind = kind_of(first)
    named = _NAME.match(file.name)
    symbol = named[1] if named else intake.symbol
    if symbol is None:
        raise BadInput(f"{file.path} names no symbol; name it like BTCUSDT-trades-2024-08-08.zip or give --symbol")
    interval = named[2] if named and kind == "klines" else ""
    rows = Rows(file, intake)
    reader = {"trades": _trade, "aggTrades": _agg_trade, "bookTicker": _best, "klines": _kline}[kind]
    delay_ns = intake.latency_ns
    if kind == "aggTrades" and intake.source.venue == USDM:
        delay_ns += AGG_TRADE_DELAY_NS

    def message_of(cells: list[str]) -> tuple[int, Message]:
        message = reader(rows, symbol, cells, interval)
        return message.event_ns + delay_ns, message

    header = not first[:1].isdigit()
    rows.read(header, len(first.split(",")), message_of)


# 5266583936,61800.30,0.199,12298.25,1723161256344,false[,true]
def _trade(rows: Rows, symbol: str, cells: list[str], _interval: str) -> Trade:
    trade_id = whole(cells[0], "id")
    side = -1 if truth(cells[5], "is_buyer_maker") else 1
    return Trade(symbol, rows.time_ns(cells[4], "time"), cells[1], cells[2], side, trade_id, trade_id, trade_id, 0)


# 3012000222,95000.10,1.250,7011000200,7011000209,1795000000071,true[,true]
def _agg_trade(rows: Rows, symbol: str, cells: list[str], _interval: str) -> Trade:
    side = -1 if truth(cells[6], "is_buyer_maker") else 1
    ids = whole(cells[0], "agg_trade_id"), whole(cells[3], "first_trade_id"), whole(cells[4], "last_trade_id")
    return Trade(symbol, rows.time_ns(cells[5], "transact_time"), cells[1], cells[2], side, *ids, AGGREGATED)


# 4064608421498,62000.0,3.21,62000.1,0.4,1709596800004,1709596800009
def _best(rows: Rows, symbol: str, cells: list[str], _interval: str) -> Best:
    return Best(symbol, rows.time_ns(cells[5], "transaction_time"), cells[1], cells[2], cells[3], cells[4],
                whole(cells[0], "update_id"))


# 1723075200000,55100.1,55110.0,55090.0,55100.0,120.5,1723075259999,6639550.0,1500,60.2,3317020.0,0
def _kline(rows: Rows, symbol: str, cells: list[str], interval: str) -> Kline:
    open_ns, close_ns = rows.time_ns(cells[0], "open_time"), rows.time_ns(cells[6], "close_time")
    interval = interval or f"{round((close_ns - open_ns) / 60e9)}m"
    return Kline(symbol, close_ns, open_ns, close_ns, interval, *cells[1:6], cells[9], whole(cells[8], "count"), True)


def read_trade_csv(file: RecordedFile, intake: Intake) -> None:
    """Read `timestamp,price,quantity,side,tradeId`; side is the taker's: buys print at the ask, sells at the bid."""
    named = _TRADE_CSV_NAME.match(file.name)
    symbol = named[1] if named else intake.symbol
    if symbol is None:
        raise BadInput(f"{file.path} names no symbol; name it like LTCUSDT_trades.csv or give --symbol")
    rows = Rows(file, intake)

    def message_of(cells: list[str]) -> tuple[int, Message]:
        event_ns, trade_id = rows.time_ns(cells[0], "timestamp"), whole(cells[4], "tradeId")
        trade = Trade(symbol, event_ns, cells[1], cells[2], side_of(cells[3]), trade_id, trade_id, trade_id, 0)
        return event_ns + intake.latency_ns, trade

    rows.read(True, 5, message_of)
