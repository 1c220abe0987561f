"""Collects messages of many files as integer columns per table and symbol, a block at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import numpy as np

from engine.errors import BadInput
from engine.instruments import scaled
from engine.kernel.records import MISSING, NOT_MARKET, SNAPSHOT_LEVEL
from engine.record.columns import MAX_DIGITS, Scale, parse_decimals
from engine.record.decode import (
    EARLIEST_NS,
    LATEST_NS,
    Best,
    Depth,
    Kline,
    Liquidation,
    Mark,
    Message,
    Other,
    Quote,
    Trade,
)

BLOCK_MESSAGES = 16_384
CLOCK_STEP_LIMIT_NS = 5_000_000_000
LINE_BITS = 40  # a place is file number << LINE_BITS | line number
MAY_BE_BLANK = ("quotes", "best", "liquidations")


@dataclass
class Block:
    """Some messages of one table and symbol, an array per column; prices and quantities at the decimals they needed."""

    recv_ns: np.ndarray
    event_ns: np.ndarray
    place: np.ndarray      # file and line
    order: np.ndarray      # decides between equal times: the place, or the id where a file has venue time only
    columns: dict[str, np.ndarray]
    counts: np.ndarray | None      # rows of each message, for depth
    price_decimals: int
    qty_decimals: int


@dataclass
class Source:
    """One file being read, and what became of it."""

    number: int
    path: Path
    format: str
    venue: str
    clock: str  # receive | event
    sha256: str = ""
    messages: int = 0
    notes: dict = field(default_factory=dict)


class Intake:
    """Where readers put messages; counts, checks and packs them."""

    def __init__(self, symbol: str | None = None, skip_limit: int = 100, latency_ns: int = 0,
                 server_offset_s: int | None = None):
        self.symbol = symbol
        self.skip_limit = skip_limit
        self.latency_ns = latency_ns            # added to venue time where a file holds no receive time
        self.server_offset_s = server_offset_s  # of the broker's clock, where the files cannot tell
        self.sources: list[Source] = []
        self.blocks: dict[tuple[str, str], list[Block]] = {}
        self.scales: dict[tuple[str, str], Scale] = {}
        self.bar_scales: dict[tuple[str, str], Scale] = {}
        self.venues: dict[str, Source] = {}
        self.counts = dict.fromkeys(("trade", "depth", "best", "snapshot", "mark", "liquidation", "not_market", "quote",
                                     "kline", "other"), 0)
        self.skipped: list[dict] = []
        self.clock_steps = 0
        self._pending: dict[tuple[type, str], list[tuple[int, int, Message]]] = {}
        self._last_recv_ns = 0
        self._skipped_before = 0

    @property
    def source(self) -> Source:
        """The file being read."""
        return self.sources[-1]

    def begin(self, source: Source) -> None:
        """Start the next file."""
        self.sources.append(source)
        self._last_recv_ns = 0
        self._skipped_before = len(self.skipped)

    def end(self) -> None:
        """Pack what is left of the file."""
        for key in list(self._pending):
            self._flush(key)
        self._pending.clear()
        self.skipped[self._skipped_before:] = sorted(self.skipped[self._skipped_before:], key=lambda skip: skip["line"])

    def skip(self, line: int, reason: str) -> None:
        """Count a malformed line; too many of them end the import."""
        self.skipped.append({"file": self.source.path.name, "line": line, "reason": reason})
        if len(self.skipped) > self.skip_limit:
            raise BadInput(f"{self.source.path} line {line}: {reason}; that is malformed line {len(self.skipped)} "
                           f"and the limit is {self.skip_limit}, so nothing was imported")

    def put(self, line: int, recv_ns: int, message: Message) -> None:
        """Take one message of the current file."""
        if type(message) is Other:
            self.counts["other"] += 1
            return
        if self.source.clock == "receive":
            recv_ns = self._steady(line, recv_ns)
        key = (type(message), message.symbol)
        batch = self._pending.get(key)
        if batch is None:
            self.claim(line, message.symbol)
            batch = self._pending[key] = []
        batch.append((line, recv_ns, message))
        if len(batch) >= BLOCK_MESSAGES:
            self._flush(key)

    def claim(self, line: int, symbol: str) -> None:
        """Note that the current file has a symbol; raise BadInput for one not asked for or known from another venue."""
        if self.symbol and symbol != self.symbol:
            raise BadInput(f"{self.source.path} line {line} is of {symbol}, not of {self.symbol} "
                           "as asked with --symbol")
        first = self.venues.setdefault(symbol, self.source)
        if first.venue != self.source.venue:
            raise BadInput(f"{symbol} is of {first.venue} in {first.path} but of {self.source.venue} in "
                           f"{self.source.path}; one session takes a symbol from one venue, so import two sessions")

    def check_time(self, line: int, time_ns: int, what: str = "receive time") -> None:
        """Raise BadInput for a time that cannot be in nanoseconds of this century."""
        if not EARLIEST_NS <= time_ns < LATEST_NS:
            raise BadInput(f"{self.source.path} line {line}: {what} {time_ns} ns lies outside the years 2015 to 2099; "
                           "the stamp is in another unit than its digits say")

    def _steady(self, line: int, recv_ns: int) -> int:
        if recv_ns >= self._last_recv_ns:
            self.check_time(line, recv_ns)
            self._last_recv_ns = recv_ns
            return recv_ns
        back_ns = self._last_recv_ns - recv_ns
        if back_ns > CLOCK_STEP_LIMIT_NS:
            raise BadInput(f"{self.source.path} line {line}: receive time {recv_ns} is {back_ns / 1e9:.3f} s before "
                           "the lines above it; the lines are shuffled, give the file as it was recorded")
        self.clock_steps += 1
        return self._last_recv_ns

    def _flush(self, key: tuple[type, str]) -> None:
        batch = self._pending.pop(key)
        if not batch:
            return
        self._pending[key] = []
        table, columns_of = _TABLES[key[0]]
        lines, recv, messages = zip(*batch, strict=True)
        self.put_columns(table, key[1], lines, recv, [m.event_ns for m in messages], columns_of(messages))

    def put_columns(self, table: str, symbol: str, lines: Sequence[int], recv_ns: Sequence[int],
                    event_ns: Sequence[int], columns: dict[str, Sequence]) -> None:
        """Take messages as columns: texts where the name ends in _ticks, _lots or _e8, integers elsewhere.

        Depth has `counts` (rows of each message) and as many `side`, `price_ticks` and `qty_lots` as that adds up to.
        """
        lines = np.asarray(lines, np.int64)
        counts = np.asarray(columns.pop("counts"), np.int64) if "counts" in columns else None
        block = Block(np.asarray(recv_ns, np.int64), np.asarray(event_ns, np.int64),
                      self.source.number << LINE_BITS | lines, np.empty(0), {}, counts, 0, 0)
        bad = np.zeros(len(lines), bool)
        parsed = {}
        for unit, stem in (("_ticks", "price"), ("_lots", "qty")):
            names = [n for n in columns if n.endswith(unit)]
            if names:
                parsed[stem] = self._parse(table, names, columns, lines, counts, bad)
        for name in columns:
            if name.endswith("_e8"):
                block.columns[name] = self._e8(name, columns[name], lines, bad)
            elif not name.endswith(("_ticks", "_lots")):
                block.columns[name] = np.asarray(columns[name])
        self._finish(table, symbol, block, parsed, bad)

    def _parse(self, table: str, names: list[str], columns: dict, lines: np.ndarray, counts: np.ndarray | None,
               bad: np.ndarray) -> tuple:
        texts = [t for name in names for t in columns[name]]
        blank = None
        if table in MAY_BE_BLANK and "" in texts:
            blank = np.array([t == "" for t in texts])
            texts = [t or "0" for t in texts]
        parsed = parse_decimals(texts) if texts else None
        if parsed is not None and not parsed.good.all():
            owner = np.arange(len(lines)) if counts is None else np.repeat(np.arange(len(lines)), counts)
            for index in np.flatnonzero(~parsed.good):
                message = int(owner[index % len(owner)])
                if not bad[message]:
                    bad[message] = True
                    kind = "price" if names[0].endswith("_ticks") else "quantity"
                    self.skip(int(lines[message]), f"{kind} {texts[index][:60]!r} is not a decimal number "
                              f"of at most {MAX_DIGITS} digits")
        return names, parsed, blank

    def _e8(self, name: str, texts: Sequence[str], lines: np.ndarray, bad: np.ndarray) -> np.ndarray:
        values = np.full(len(texts), MISSING, np.int64)
        for index, text in enumerate(texts):
            if text == "":
                continue
            try:
                values[index] = scaled(_at_most_8(text) if name == "average_price_e8" else text, 8)
            except (ValueError, ArithmeticError, OverflowError):
                if not bad[index]:
                    bad[index] = True
                    self.skip(int(lines[index]), f"{name.removesuffix('_e8')} {text[:60]!r} is not a number "
                              "of at most 8 decimals")
        return values

    def _finish(self, table: str, symbol: str, block: Block, parsed: dict, bad: np.ndarray) -> None:
        keep = ~bad
        for stem, (names, column, blank) in parsed.items():
            if column is None:
                block.columns.update((name, np.empty(0, np.int64)) for name in names)
                continue
            rows = keep if block.counts is None else np.repeat(keep, block.counts)
            good = np.tile(rows, len(names))
            scales = self.bar_scales if table == "klines" else self.scales
            column.mantissa, column.decimals, column.written = (
                column.mantissa[good], column.decimals[good], column.written[good])
            values, decimals = scales.setdefault((symbol, stem), Scale()).take(column, f"{self.source.path}: {symbol}")
            if blank is not None:
                values = np.where(blank[good], MISSING, values)
            for name, part in zip(names, np.split(values, len(names)), strict=True):
                block.columns[name] = part
            setattr(block, f"{stem}_decimals", decimals)
        if bad.any():
            self._drop(block, keep, [n for names, _, _ in parsed.values() for n in names])
        if len(block.place):
            self._count(table, block)
            block.order = block.place if self.source.clock == "receive" else _event_order(table, block)
            self.blocks.setdefault((table, symbol), []).append(block)

    def _drop(self, block: Block, keep: np.ndarray, done: list[str]) -> None:
        rows = keep if block.counts is None else np.repeat(keep, block.counts)
        for name in block.columns:
            if name not in done:
                by_row = name == "side" and block.counts is not None
                block.columns[name] = block.columns[name][rows if by_row else keep]
        if block.counts is not None:
            block.counts = block.counts[keep]
        block.recv_ns, block.event_ns, block.place = block.recv_ns[keep], block.event_ns[keep], block.place[keep]

    def _count(self, table: str, block: Block) -> None:
        number = len(block.place)
        self.source.messages += number
        if table == "trades":
            self.counts["not_market"] += int((block.columns["bits"] & NOT_MARKET > 0).sum())
        if table == "depth":
            snapshots = int((block.columns["bits"] & SNAPSHOT_LEVEL > 0).sum())
            self.counts["snapshot"] += snapshots
            number -= snapshots
        self.counts[_COUNT_AS[table]] += number

    def where(self, place: int) -> str:
        """Return a place as text for a sentence."""
        return f"{self.sources[place >> LINE_BITS].path} line {place & ((1 << LINE_BITS) - 1)}"


_COUNT_AS = {"trades": "trade", "depth": "depth", "best": "best", "quotes": "quote", "liquidations": "liquidation",
             "marks": "mark", "klines": "kline"}


def _event_order(table: str, block: Block) -> np.ndarray:
    name = {"trades": "trade_id", "best": "update_id", "klines": "open_ns"}.get(table)
    return block.place if name is None else block.columns[name]


def _at_most_8(text: str) -> str:
    return f"{Decimal(text).quantize(Decimal('1e-8'), ROUND_HALF_EVEN):f}"


def _fields(**names: str):
    return lambda messages: {column: [getattr(m, name) for m in messages] for column, name in names.items()}


def _depth_columns(messages: Iterable[Depth]) -> dict[str, list]:
    levels = [level for m in messages for side in (m.bids, m.asks) for level in side]
    sides = np.repeat(np.tile(np.array([1, -1], np.int64), len(messages)),
                      [len(side) for m in messages for side in (m.bids, m.asks)])
    prices, qtys = zip(*levels, strict=True) if levels else ((), ())
    return {"counts": [len(m.bids) + len(m.asks) for m in messages], "side": sides,
            "price_ticks": prices, "qty_lots": qtys, "first_id": [m.first_id for m in messages],
            "last_id": [m.last_id for m in messages],
            "prev_id": [m.prev_id for m in messages], "bits": [m.bits for m in messages]}


_TABLES = {
    Trade: ("trades", _fields(price_ticks="price", qty_lots="qty", side="side", trade_id="trade_id",
                              first_id="first_id", last_id="last_id", bits="bits")),
    Depth: ("depth", _depth_columns),
    Best: ("best", _fields(bid_price_ticks="bid_price", bid_qty_lots="bid_qty", ask_price_ticks="ask_price",
                           ask_qty_lots="ask_qty", update_id="update_id")),
    Quote: ("quotes", _fields(bid_price_ticks="bid_price", ask_price_ticks="ask_price", bits="bits")),
    Liquidation: ("liquidations", _fields(side="side", price_ticks="price", qty_lots="qty",
                                          average_price_e8="average_price", filled_lots="filled")),
    Mark: ("marks", _fields(mark_price_e8="mark_price", index_price_e8="index_price", funding_rate_e8="funding_rate",
                            next_funding_ns="next_funding_ns")),
    Kline: ("klines", _fields(open_ns="open_ns", close_ns="close_ns", interval="interval", open_ticks="open",
                              high_ticks="high", low_ticks="low", close_ticks="close", volume_lots="volume",
                              taker_buy_lots="taker_buy", trades="trades", closed="closed")),
}
