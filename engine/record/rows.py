"""One journaled frame to EVENT rows, as it is live: the very rows the session's tables give when it is replayed.

`engine/stream.py` makes them from the tables, whole columns at a time; this makes them from the frame, within
microseconds. `tests/test_rows.py` holds one against the other, and `tapeguard verify` does for every live run.
"""

import struct
from collections.abc import Sequence

import numpy as np

from engine.errors import BadInput
from engine.instruments import Instrument
from engine.kernel import records as R
from engine.record.collect import FrameIntake
from engine.record.columns import MAX_DIGITS, MAX_TEXT
from engine.record.decode import Best, Depth, Message, Quote, Trade
from engine.record.frames import Feed, lost_message, read_frame
from engine.record.grid import CACHED, NUMBER, Grids
from engine.record.own import ACCOUNT_CODES, BY_BROKER, Own
from engine.record.segment import Frame, Origin
from engine.stream import FEED_CODES, FEED_STREAMS
from engine.words import FILL_CODES, RULE_MODES

ROW = struct.Struct("<7q2b2Hh")
_WHOLE = R.FIRST | R.LAST
_MISSING = R.MISSING
_TABLES = {Trade: "trades", Depth: "depth", Best: "best", Quote: "quotes"}


class BadText(Exception):
    """A price or quantity that is no decimal number."""


class Steps(dict):
    """Decimal texts to whole steps of one size, exactly; a text met before is looked up."""

    def __init__(self, size: str, what: str):
        super().__init__()
        whole, _, fraction = size.partition(".")
        self.step, self.decimals, self.size, self.what = int(whole + fraction), len(fraction), size, what

    def __missing__(self, text: str) -> int:
        found = NUMBER.fullmatch(text) if len(text) <= MAX_TEXT else None
        if found is None:
            raise BadText
        whole, fraction = found[1], (found[2] or "").rstrip("0")
        if len(whole) + len(fraction) > MAX_DIGITS:
            raise BadText
        places = max(self.decimals, len(fraction))
        value = int(whole + fraction) * 10 ** (places - len(fraction))
        steps, rest = divmod(value, self.step * 10 ** (places - self.decimals))
        if rest:
            raise BadInput(f"{text} of {self.what} is no whole number of steps of {self.size}: the venue changed its step sizes; "
                           "start again, so that the new ones are read")
        if len(self) >= CACHED:
            self.clear()
        self[text] = steps
        return steps


class RowMaker:
    """Makes the EVENT rows of frames in the order of their seq; a symbol without a number has none."""

    def __init__(self, instruments: Sequence[Instrument], numbers: dict[str, int], origins: list[Origin]):
        self.numbers, self.origins = numbers, origins
        self.prices = {i.symbol: Steps(i.tick_size, i.symbol) for i in instruments}
        self.lots = {i.symbol: Steps(i.lot_size, i.symbol) for i in instruments}
        self.venues = {i.symbol: i.venue for i in instruments}
        self.grids = Grids(instruments)
        self._bytes = bytearray(ROW.size * 4096)
        self._rows = np.frombuffer(self._bytes, R.EVENT)

    def rows(self, frame: Frame) -> np.ndarray:
        """Return the rows of a frame, valid until the next call."""
        found = read_frame(frame, self.origins)
        if type(found) is Feed:
            return self._done(self._feed(frame, found))
        if type(found) is Own:
            return self._done(self._own(frame, found))
        rows: list[tuple] = []
        lost, stored = None, False
        venue = self.origins[frame.source].venue if frame.source < len(self.origins) else ""
        for message in found:
            if self.venues.get(message.symbol, venue) != venue:
                lost = lost_message(message.symbol, None, "of another venue")
                continue
            if type(message) not in _TABLES:
                bad = _lost(frame, message)
                lost, stored = bad or lost, stored or bad is None
                continue
            try:
                rows += self._message(frame, message)
                stored = True
            except BadText:
                lost = lost_message(message.symbol, _TABLES[type(message)], "no decimal number")
        return self._done(rows if stored or lost is None else self._feed(frame, lost))

    def _done(self, rows: list[tuple]) -> np.ndarray:
        size = ROW.size
        if len(rows) * size > len(self._bytes):
            self._bytes = bytearray(size * 2 * len(rows))
            self._rows = np.frombuffer(self._bytes, R.EVENT)
        pack_into, data = ROW.pack_into, self._bytes
        at = 0
        for row in rows:
            pack_into(data, at, *row)
            at += size
        return self._rows[:len(rows)]

    def _message(self, frame: Frame, m: Message) -> list[tuple]:
        kind = type(m)
        s = self.numbers.get(m.symbol)
        if s is None:
            return []
        seq, recv_ns, price = frame.seq, frame.recv_ns, self.prices[m.symbol]
        if kind is Trade:
            return [(seq, recv_ns, m.event_ns, price[m.price], self.lots[m.symbol][m.qty], m.trade_id, _MISSING,
                     R.TRADE, m.side, m.bits | _WHOLE, s, 0)]
        if kind is Depth:
            return self._depth(frame, m, s)
        if kind is Best:
            lots = self.lots[m.symbol]
            bid, bid_lots = price[m.bid_price] if m.bid_price else _MISSING, lots[m.bid_qty] if m.bid_qty else _MISSING
            ask, ask_lots = price[m.ask_price] if m.ask_price else _MISSING, lots[m.ask_qty] if m.ask_qty else _MISSING
            return [(seq, recv_ns, _MISSING, bid, bid_lots, m.update_id, _MISSING, R.BEST, 1, R.FIRST, s, 0),
                    (seq, recv_ns, _MISSING, ask, ask_lots, m.update_id, _MISSING, R.BEST, -1, R.LAST, s, 0)]
        m = self.grids.place(m)
        bid, ask = (price[p] if p else _MISSING for p in (m.bid_price, m.ask_price))
        return [(seq, recv_ns, _MISSING, bid, _MISSING, _MISSING, _MISSING, R.QUOTE, 1, R.FIRST, s, 0),
                (seq, recv_ns, _MISSING, ask, _MISSING, _MISSING, _MISSING, R.QUOTE, -1, R.LAST, s, 0)]

    def _depth(self, frame: Frame, m: Depth, s: int) -> list[tuple]:
        seq, recv_ns, last, prev, bits = frame.seq, frame.recv_ns, m.last_id, m.prev_id, m.bits
        price, lots = self.prices[m.symbol], self.lots[m.symbol]
        kind = R.SNAPSHOT if bits & R.SNAPSHOT_LEVEL else R.DEPTH
        rows = [(seq, recv_ns, _MISSING, price[p], lots[q], last, prev, kind, 1, bits, s, 0) for p, q in m.bids]
        rows += [(seq, recv_ns, _MISSING, price[p], lots[q], last, prev, kind, -1, bits, s, 0) for p, q in m.asks]
        if not rows:
            return [(seq, recv_ns, _MISSING, _MISSING, _MISSING, last, prev, kind, 0, bits | _WHOLE, s, 0)]
        for at, bit in ((0, R.FIRST), (-1, R.LAST)):
            row = rows[at]
            rows[at] = (*row[:9], row[9] | bit, *row[10:])
        return rows

    def _feed(self, frame: Frame, feed: Feed) -> list[tuple]:
        s = R.EVERY_SYMBOL if feed.symbol is None else self.numbers.get(feed.symbol)
        if s is None:
            return []
        code = FEED_CODES[feed.code]
        return [(frame.seq, frame.recv_ns, _MISSING, _MISSING, _MISSING, FEED_STREAMS[feed.stream], _MISSING,
                 R.FEED if code else R.TIMER, 0, _WHOLE, s, code)]

    def _own(self, frame: Frame, own: Own) -> list[tuple]:
        made = _OWN.get(own.table)
        rows = []
        for row in own.rows if made else ():
            s = R.EVERY_SYMBOL if row["symbol"] is None else self.numbers.get(row["symbol"])
            if s is not None:
                event_ns, price, lots, number, kind, side, bits, code = made(row)
                rows.append((frame.seq, frame.recv_ns, event_ns, price, lots, number, _MISSING, kind, side, bits, s, code))
        return rows


def _known(value: int | None) -> int:
    return _MISSING if value is None else value


def _account_row(row: dict) -> tuple:
    code = ACCOUNT_CODES[row["code"]]
    kind, code = (R.OUTCOME, code - BY_BROKER) if code >= BY_BROKER else (R.POSITION, code)
    return (_known(row["event_ns"]), _known(row["price_ticks"]), _known(row["qty_lots"]), row["ticket"], kind, row["side"],
            row["bits"], code)


def _order_row(row: dict) -> tuple:
    code = FILL_CODES.index(row["code"])
    price = row["stop_ticks"] if code == R.STOP_MOVED else row["price_ticks"]
    return _MISSING, _known(price), _known(row["left_lots"]), row["ticket"], R.OUTCOME, 0, _WHOLE, code


def _switch_row(row: dict) -> tuple:
    return _MISSING, _MISSING, _MISSING, row["number"], R.SWITCH, 0, _WHOLE, RULE_MODES.index(row["mode"])


_OWN = {"account": _account_row, "orders": _order_row, "switches": _switch_row}


def _lost(frame: Frame, message: Message) -> Feed | None:
    """Return the feed row of a message the kernel does not fold, when it cannot be stored either."""
    intake = FrameIntake()
    intake.put(frame.seq, frame.recv_ns, message)
    intake.end()
    if not intake.bad:
        return None
    table, symbol, reason = intake.bad[frame.seq]
    return lost_message(symbol, table, reason)
