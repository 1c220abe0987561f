"""What changes of the positions of an account, from one reading of the broker to the next."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from engine.instruments import Instrument
from engine.live.first import FirstSeen
from engine.record.own import Account, Change

IN, OUT_ENTRIES = 0, (1, 2, 3)
GUARD_LOTS = 1e-9
CLOSED_BY = {4: "stopped", 5: "taken"}         # reason of the deal
MOST = 64                      # positions that the kernel has room for
GONE_READS = 2                 # empty reads in a row before a position is believed to be gone
DEAL_WAIT_READS = 20           # and this many more for the deal that says at what price


@dataclass
class Known:
    """A position as it was last told."""

    symbol: str
    side: int
    price_ticks: int
    lots: int
    stop_ticks: int | None
    take_ticks: int | None
    absent: int = 0


def steps(value: float, size: str) -> int:
    """Return a float of the terminal as whole steps, the nearest: an entry price may be an average."""
    return round(Decimal(repr(float(value))) / Decimal(size))


def level(value: float, size: str) -> int | None:
    """Return a stop or take profit in ticks, None for none."""
    return steps(value, size) if value > 0 else None


class AccountBook:
    """Turns readings of positions into changes; a position that is being acted on is left to its outcome."""

    def __init__(self, instruments: dict[str, Instrument], utc_ns: Callable[[int], int | None] = lambda msc: None,
                 first: FirstSeen | None = None, clock_reads: int = 0, most: int = MOST):
        self.instruments, self.utc_ns, self.first = instruments, utc_ns, first or FirstSeen()
        self.clock_reads = clock_reads         # so often a new position waits for the broker's clock, which tells its age
        self.known: dict[int, Known] = {}
        self.most = most
        self.left_out: set[int] = set()        # positions for which there is no room; the next that ends makes some

    def read(self, positions: list[dict], busy: set[int], deals_of: Callable[[int], list[dict]]) -> Iterator[Account]:
        """Yield what changed since the last reading, each as it is found: `deals_of`, asked only about what is gone, may raise."""
        present = {row["identifier"]: row for row in positions if row["symbol"] in self.instruments}
        waiting = {each for each, row in present.items() if each not in self.known and self.utc_ns(row["time_msc"]) is None}
        if waiting and self.clock_reads > 0:
            self.clock_reads -= 1
        else:
            waiting = set()
        self.left_out &= present.keys()
        for identifier, row in present.items():
            if identifier not in self.known and identifier not in waiting and len(self.known) >= self.most:
                self.left_out.add(identifier)
            elif identifier not in busy and identifier not in waiting:
                self.left_out.discard(identifier)
                yield from self._present(identifier, row)
        for identifier in [each for each in self.known if each not in present and each not in busy]:
            yield from self._absent(identifier, deals_of)

    def ended(self, identifier: int, lots: int | None, stop_ticks: int | None, closed: bool) -> None:
        """Take what an outcome told the kernel, so that it is not told again."""
        known = self.known.get(identifier)
        if known is None:
            return
        if closed:
            del self.known[identifier]
            self.first.forget(identifier)
            return
        known.lots = known.lots if lots is None else lots
        known.stop_ticks = known.stop_ticks if stop_ticks is None else stop_ticks

    def _reading(self, row: dict) -> Known:
        i = self.instruments[row["symbol"]]
        return Known(row["symbol"], 1 if row["type"] == 0 else -1, steps(row["price_open"], i.tick_size),
                     steps(row["volume"], i.lot_size), level(row["sl"], i.tick_size), level(row["tp"], i.tick_size))

    def _present(self, identifier: int, row: dict) -> list[Account]:
        now, old = self._reading(row), self.known.get(identifier)
        self.known[identifier] = now
        if old is None:
            return [self._opened(identifier, now, row, "")]
        if (old.side, old.price_ticks) != (now.side, now.price_ticks):
            closed = Account(old.symbol, identifier, old.side, [Change("closed")], detail="merged or reversed by another trade")
            if old.side != now.side:
                self.first.forget(identifier)
            return [closed, self._opened(identifier, now, row, "after another trade")]
        self.first.see(identifier, row["volume"], row["sl"])
        changes = []
        if old.lots != now.lots:
            changes.append(Change("volume", qty_lots=now.lots))
        for code, was, price in (("stop", old.stop_ticks, now.stop_ticks), ("take", old.take_ticks, now.take_ticks)):
            if was != price:
                changes.append(Change(code, price_ticks=price))
        return [Account(now.symbol, identifier, now.side, changes)] if changes else []

    def _opened(self, identifier: int, now: Known, row: dict, detail: str) -> Account:
        instrument, first = self.instruments[now.symbol], self.first.see(identifier, row["volume"], row["sl"])
        lots, stop_ticks = steps(first["lots"], instrument.lot_size), level(first.get("stop", 0.0), instrument.tick_size)
        changes = [Change("opened", now.price_ticks, lots)]
        changes += [Change(code, price) for code, price in (("stop", stop_ticks), ("take", now.take_ticks)) if price is not None]
        changes += [Change("volume", qty_lots=now.lots)] if lots != now.lots else []
        changes += [Change("stop", now.stop_ticks)] if stop_ticks != now.stop_ticks else []
        return Account(now.symbol, identifier, now.side, changes, self.utc_ns(row["time_msc"]), detail)

    def _absent(self, identifier: int, deals_of: Callable[[int], list[dict]]) -> list[Account]:
        known = self.known[identifier]
        known.absent += 1
        if known.absent < GONE_READS:
            return []
        deals = deals_of(identifier)
        out = [row for row in deals if row["entry"] in OUT_ENTRIES]
        opened = sum(row["volume"] for row in deals if row["entry"] == IN)
        whole = out and sum(row["volume"] for row in out) > opened - GUARD_LOTS
        if not whole and known.absent < GONE_READS + DEAL_WAIT_READS:
            return []
        del self.known[identifier]
        self.first.forget(identifier)
        code = CLOSED_BY.get(out[-1]["reason"], "closed") if out else "closed"
        price = steps(out[-1]["price"], self.instruments[known.symbol].tick_size) if out else None
        return [Account(known.symbol, identifier, known.side, [Change(code, price)], detail="" if out else "its deal was not found")]
