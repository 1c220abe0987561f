"""What the analysis tests share: a hand-made market with broker quotes, a tape by plan, and the moment it is folded to."""

import random

import numpy as np
from streams import SECOND, Stream

from engine.analysis.moment import Moment
from engine.instruments import Instrument

VENUE = Instrument("BTCUSDT", "binance_usdm", "0.10", "0.001", 2, 3)
BROKER = Instrument("BTCUSDc", "mt5", "0.01", "0.01", 2, 2, pair="BTCUSDT")
PER_USD = 600_000 * 0.1 * 0.001        # USD of one lot at the price streams begin with
DEEP = 300                             # levels of a whole book


class Tape(Stream):
    """A stream that can also hold a whole book and a random tape, and remembers its trades."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[int, int, int, int]] = []      # receive time, price, lots, side

    def trade(self, side: int, lots: int, price: int = 600_000, event_ns: int | None = None, skip: int = 0) -> "Tape":
        super().trade(side, lots, price, event_ns, skip)
        self.done.append((self.now_ns, price, lots, side))
        return self

    def book(self, bids: int = 100, asks: int = 100) -> "Tape":
        """Send a whole book with so many lots at every price."""
        return self.snapshot({self.bid - n: bids for n in range(DEEP)}, {self.ask + n: asks for n in range(DEEP)})

    def walk(self, seconds: float, seed: int = 1, lean: float = 0.0, book: tuple[int, int] | None = (100, 100), quotes: bool = True) -> "Tape":
        """Trade at random; `lean` is the surplus of buys, and a whole book is sent every five seconds."""
        rng = random.Random(seed)
        for step in range(round(seconds * 10)):
            if book and step % 50 == 0:
                self.book(*book)
            self.wait(0.1, quotes)
            for _ in range(rng.randrange(4)):
                price = self.bid + rng.randint(-3, 3)
                self.trade(1 if rng.random() < 0.5 + lean / 2 else -1, rng.randint(1, 400), price)
            if rng.random() < 0.2:
                move = rng.choice((-2, -1, 1, 2))
                self.bid, self.ask = self.bid + move, self.ask + move
        return self

    def mirror(self) -> "Tape":
        """Return the stream with sides swapped and prices reflected."""
        out = Tape()
        total = 1_200_001
        out.seq, out.now_ns = self.seq, self.now_ns
        for row in self.rows:
            image = dict(row)
            if image.get("side"):
                image["side"] = -image["side"]
            if "price_ticks" in image:
                image["price_ticks"] = (total if image["price_ticks"] < 1_000_000 else 10 * total) - image["price_ticks"]
            out.rows.append(image)
        return out


def folded(stream: Stream, chunk: int | None = None, broker: bool = True) -> Moment:
    """Fold a stream; `chunk` feeds so many rows at once."""
    moment = Moment("made", [VENUE, BROKER] if broker else [VENUE])
    rows = stream.events()
    edges = np.flatnonzero(np.diff(rows["seq"], prepend=-1))
    starts = [0] if chunk is None else edges[::chunk].tolist()
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        moment.feed(rows[start:end])
    return moment


def price_before(stream: Tape, seconds: float) -> int:
    """Return the last trade price so many seconds before the end, by looking at every trade."""
    when = stream.now_ns - round(seconds * SECOND)
    return [price for time, price, _, _ in stream.done if time <= when][-1]


def lots_between(stream: Tape, oldest_s: float, newest_s: float = 0.0, side: int | None = None) -> int:
    """Return the lots traded in (oldest, newest] seconds before the end."""
    low, high = (stream.now_ns - round(seconds * SECOND) for seconds in (oldest_s, newest_s))
    return sum(lots for time, _, lots, own in stream.done if low < time <= high and side in (None, own))
