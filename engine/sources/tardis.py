"""CSV files of tardis.dev: book changes, trades, best quotes and liquidations, with the collector's receive time."""

from engine.errors import BadInput
from engine.kernel.records import MISSING, SNAPSHOT_LEVEL
from engine.record.decode import SPOT, USDM, BadFrame, Best, Depth, Liquidation, Message, Trade
from engine.record.intake import Intake
from engine.sources.files import RecordedFile
from engine.sources.rows import Rows, side_of, truth

EXCHANGES = {"binance": SPOT, "binance-futures": USDM}
_KEY = "exchange,symbol,timestamp,local_timestamp,"
BOOK, TRADES, BEST = (_KEY + rest for rest in ("is_snapshot,side,price,amount", "id,side,price,amount",
                                               "ask_amount,ask_price,bid_price,bid_amount"))
BOOK_SIDES = {"bid": 1, "ask": -1}


def tardis_venue(file: RecordedFile, given: str | None) -> str:
    """Return the venue the first row names."""
    lines = file.head(2)
    if len(lines) < 2:
        raise BadInput(f"{file.path} has a header and no rows; there is nothing in it to import")
    exchange = lines[1].partition(b",")[0].decode("ascii", "replace")
    found = EXCHANGES.get(exchange)
    if found is None:
        raise BadInput(f"{file.path} line 2 is of exchange {exchange[:40]!r}; "
                       f"tardis files of {' and '.join(EXCHANGES)} can be imported")
    if given and given != found:
        raise BadInput(f"{file.path} is a file of {found}, not of {given} as asked with --venue")
    return found


def read_tardis(file: RecordedFile, intake: Intake) -> None:
    """Read one file, its kind told by its header; trades and liquidations share one and differ in the file name."""
    header = file.head()[0].decode("ascii", "replace")
    rows = Rows(file, intake)
    exchange = next(name for name, venue in EXCHANGES.items() if venue == intake.source.venue)
    if header == BOOK:
        _Book(rows, exchange).read()
        return
    reader = _best if header == BEST else _liquidation if "liquidations" in file.name else _trade

    def message_of(cells: list[str]) -> tuple[int, Message]:
        event_ns, recv_ns = _times(rows, exchange, cells)
        return recv_ns, reader(cells, event_ns)

    rows.read(True, 8, message_of)


def _times(rows: Rows, exchange: str, cells: list[str]) -> tuple[int, int]:
    if cells[0] != exchange:
        raise BadFrame(f"exchange {cells[0][:40]!r} is not {exchange} as in the lines above")
    return rows.time_ns(cells[2], "timestamp"), rows.time_ns(cells[3], "local_timestamp")


# binance-futures,BTCUSDT,1585699200000000,1585699200010000,92834712,buy,6425.5,0.15
def _trade(cells: list[str], event_ns: int) -> Trade:
    trade_id = int(cells[4]) if cells[4].isdigit() else MISSING
    return Trade(cells[1], event_ns, cells[6], cells[7], side_of(cells[5]), trade_id, trade_id, trade_id, 0)


# binance-futures,BTCUSDT,1585699200000000,1585699200010000,,sell,6425.5,0.15   (sell: a long was closed)
def _liquidation(cells: list[str], event_ns: int) -> Liquidation:
    return Liquidation(cells[1], event_ns, side_of(cells[5]), cells[6], cells[7], "", "")


# binance-futures,BTCUSDT,1585699200000000,1585699200010000,2.1,6425.5,6425.4,0.8
def _best(cells: list[str], event_ns: int) -> Best:
    return Best(cells[1], event_ns, cells[6], cells[7], cells[5], cells[4], MISSING)


class _Book:
    """Joins rows of one symbol, receive time and kind (snapshot or change) to a message, which has no update ids."""

    def __init__(self, rows: Rows, exchange: str):
        self.rows, self.exchange = rows, exchange
        self.key: tuple | None = None
        self.sides: dict[int, list[tuple[str, str]]] = {1: [], -1: []}
        self.first_line = 0

    def read(self) -> None:
        """Read the whole file."""
        self.rows.read(True, 8, self._row)
        self._put()

    # binance-futures,BTCUSDT,1585699200000000,1585699200010000,true,bid,6425.4,0.8
    def _row(self, cells: list[str]) -> None:
        event_ns, recv_ns = _times(self.rows, self.exchange, cells)
        whole_book = truth(cells[4], "is_snapshot")
        if cells[5] not in BOOK_SIDES:
            raise BadFrame(f"side {cells[5][:40]!r} is neither bid nor ask")
        if (cells[1], recv_ns, whole_book) != self.key:
            self._put()
            self.key, self.event_ns, self.first_line = (cells[1], recv_ns, whole_book), event_ns, self.rows.line
        self.sides[BOOK_SIDES[cells[5]]].append((cells[6], cells[7]))

    def _put(self) -> None:
        if self.key is None:
            return
        symbol, recv_ns, whole_book = self.key
        bits = SNAPSHOT_LEVEL if whole_book else 0
        self.rows.intake.put(self.first_line, recv_ns, Depth(symbol, self.event_ns, MISSING, MISSING, MISSING,
                                                             self.sides[1], self.sides[-1], bits))
        self.sides = {1: [], -1: []}
