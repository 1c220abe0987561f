"""All messages of one table and symbol: put in order, doubles dropped, holes in their ids found."""

from dataclasses import dataclass

import numpy as np

from engine.errors import BadInput
from engine.instruments import Instrument
from engine.kernel.records import AGGREGATED, MISSING
from engine.record.columns import rescale, steps_of
from engine.record.intake import Block, Intake

ROW_COLUMNS = ("side", "price_ticks", "qty_lots")  # of depth, where a message has many rows


@dataclass
class Gaps:
    """Holes found: the message that revealed each, and the ids around it."""

    message: np.ndarray
    from_id: np.ndarray
    to_id: np.ndarray
    detail: list[str]


class NotWhole(BadInput):
    """A value is no whole number of the steps given for its symbol."""


class Group:
    """One table of one symbol; prices and quantities at the decimals all its values need.

    With `keep_doubles` messages that repeat an earlier one stay: what a journal holds is what was acted on.
    """

    def __init__(self, intake: Intake, table: str, symbol: str, blocks: list[Block], keep_doubles: bool = False):
        self.intake, self.table, self.symbol = intake, table, symbol
        self.decimals = {"_ticks": max(b.price_decimals for b in blocks), "_lots": max(b.qty_decimals for b in blocks)}
        self.recv_ns = np.concatenate([b.recv_ns for b in blocks])
        self.event_ns = np.concatenate([b.event_ns for b in blocks])
        self.place = np.concatenate([b.place for b in blocks])
        self.order = np.concatenate([b.order for b in blocks])
        self.counts = None if blocks[0].counts is None else np.concatenate([b.counts for b in blocks])
        self.columns = {name: np.concatenate([self._scaled(b, name) for b in blocks]) for name in blocks[0].columns}
        self.duplicates = 0
        in_order = (np.diff(self.recv_ns) > 0) | ((np.diff(self.recv_ns) == 0) & (np.diff(self.order) >= 0))
        if not in_order.all():
            self.select(np.lexsort((self.order, self.recv_ns)))
        if not keep_doubles:
            self._drop_doubles()

    def __len__(self) -> int:
        return len(self.place)

    def _scaled(self, block: Block, name: str) -> np.ndarray:
        for unit, at in (("_ticks", block.price_decimals), ("_lots", block.qty_decimals)):
            if name.endswith(unit):
                return rescale(block.columns[name], at, self.decimals[unit], self.symbol)
        return block.columns[name]

    def select(self, index: np.ndarray) -> None:
        """Keep the messages of `index`, in its order."""
        rows = index
        if self.counts is not None:
            counts = self.counts[index]
            starts = (np.cumsum(self.counts) - self.counts)[index]
            rows = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
            self.counts = counts
        for name, values in self.columns.items():
            by_row = self.counts is not None and name in ROW_COLUMNS
            self.columns[name] = values[rows if by_row else index]
        self.recv_ns, self.event_ns = self.recv_ns[index], self.event_ns[index]
        self.place, self.order = self.place[index], self.order[index]

    def _identity(self) -> tuple[np.ndarray, list[np.ndarray], list[str]]:
        """Return which messages have an identity, its keys, and the columns that must then agree."""
        c = self.columns
        venue_time_only = np.array([s.clock == "event" for s in self.intake.sources])[self.place >> 40]
        if self.table == "trades":
            keys = [c["trade_id"], c["bits"] & AGGREGATED]
            return c["trade_id"] != MISSING, keys, ["price_ticks", "qty_lots", "side", "first_id", "last_id"]
        if self.table == "depth":
            return (c["bits"] == 0) & (c["last_id"] != MISSING), [c["last_id"], c["first_id"]], ["prev_id"]
        if self.table == "best":
            return venue_time_only & (c["update_id"] != MISSING), [c["update_id"]], [n for n in c if n != "update_id"]
        if self.table == "klines":
            codes = np.unique(c["interval"], return_inverse=True)[1]
            return venue_time_only, [c["open_ns"], codes], ["open_ticks", "close_ticks", "volume_lots"]
        return np.zeros(len(self), bool), [], []

    def _drop_doubles(self) -> None:
        """Drop messages that repeat an earlier one with their id; raise BadInput where one says something else."""
        has, keys, content = self._identity()
        if not has.any() or (has.all() and (np.diff(keys[0]) > 0).all()):
            return
        candidates = np.flatnonzero(has)
        ranked = candidates[np.lexsort([candidates, *[k[candidates] for k in reversed(keys)]])]
        earlier, later = ranked[:-1], ranked[1:]
        same = np.logical_and.reduce([k[earlier] == k[later] for k in keys])
        earlier, later = earlier[same], later[same]
        for name in content:
            differs = np.flatnonzero(self.columns[name][earlier] != self.columns[name][later])
            if len(differs):
                one, two = earlier[differs[0]], later[differs[0]]
                raise BadInput(f"{self.symbol} id {int(keys[0][two])} at {self._where(two)} was already at "
                               f"{self._where(one)} with another {name.rpartition('_')[0] or name}; "
                               "one id is one message, so one of the two is wrong")
        self.duplicates = len(later)
        if len(later):
            self.select(np.delete(np.arange(len(self)), later))

    def _where(self, message: int) -> str:
        return self.intake.where(int(self.place[message]))

    def gaps(self, seen: dict[str, int] | None = None) -> list[Gaps]:
        """Return the holes in the trade ids or in the chain of diffs.

        `seen` is the highest id of each series in the groups before this one, and is brought up to date.
        """
        seen = {} if seen is None else seen
        if self.table == "trades":
            aggregated = self.columns["bits"] & AGGREGATED > 0
            series = (~aggregated, "trade"), (aggregated, "aggTrade")
            return [self._trade_gaps(mask, name, seen) for mask, name in series]
        if self.table == "depth":
            return [self._depth_gaps(seen)]
        return []

    def _trade_gaps(self, mask: np.ndarray, name: str, before: dict[str, int]) -> Gaps:
        index = np.flatnonzero(mask & (self.columns["trade_id"] != MISSING))
        ids = self.columns["trade_id"][index]
        seen = _highest_before(ids, name, before)
        holes = np.flatnonzero(ids > seen + 1)
        detail = [f"{name} ids {a + 1} to {b - 1} missing" for a, b in zip(seen[holes], ids[holes], strict=True)]
        return Gaps(index[holes], seen[holes], ids[holes], detail)

    def _depth_gaps(self, before: dict[str, int]) -> Gaps:
        c = self.columns
        index = np.flatnonzero((c["bits"] == 0) & (c["prev_id"] != MISSING))
        last, prev = c["last_id"][index], c["prev_id"][index]
        seen = _highest_before(last, "diff", before)
        holes = np.flatnonzero((last > seen) & (prev != seen))
        detail = [f"diff continues {b}, the one before ended at {a}"
                  for a, b in zip(seen[holes], prev[holes], strict=True)]
        return Gaps(index[holes], seen[holes], c["first_id"][index][holes], detail)

    def steps(self, name: str, instrument: Instrument) -> np.ndarray:
        """Return a price or quantity column in ticks or lots; raise BadInput naming a value that is not whole."""
        unit = "_ticks" if name.endswith("_ticks") else "_lots"
        size = instrument.tick_size if unit == "_ticks" else instrument.lot_size
        values, wrong = steps_of(self.columns[name], self.decimals[unit], size, self.symbol)
        if wrong is not None:
            row, text = wrong
            message = row if self.counts is None else int(np.searchsorted(np.cumsum(self.counts), row, "right"))
            raise NotWhole(f"{self._where(message)}: {text} of {self.symbol} is not a whole number of {unit[1:]} of "
                           f"{size}; give a {unit[1:-1]} size that divides every value, or none")
        return values


def _highest_before(ids: np.ndarray, name: str, before: dict[str, int]) -> np.ndarray:
    """Return the highest id ahead of each; the very first has its own, so that it is no hole.

    `before` gives the highest id of earlier groups, and is brought up to date.
    """
    if not len(ids):
        return ids
    highest = np.maximum.accumulate(np.concatenate([[before.get(name, ids[0])], ids]))
    before[name] = int(highest[-1])
    return highest[:-1]
