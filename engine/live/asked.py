"""What a live run shows of each rule on each symbol: for how long it was asked while all feeds were well, and how often it decided."""

import numpy as np

from engine.kernel import records as R
from engine.live.effects import open_positions
from engine.positions import Desk
from engine.run import Run

SECOND_NS = 10**9


class Asked:
    """Looks at a kernel once in each second of its market."""

    def __init__(self, kernel: Run, max_quote_age_s: float):
        self.kernel, self.max_age_ns = kernel, round(max_quote_age_s * SECOND_NS)
        self.seconds = np.zeros((len(kernel.arrays["market"]), len(kernel.rules)), np.int64)
        self._second = -1

    def look(self, next_ns: int) -> None:
        """Before an event at `next_ns`: count the second that ends where it begins another, if all is well in it."""
        second, self._second = self._second, next_ns // SECOND_NS
        if second in (-1, self._second):
            return
        a = self.kernel.arrays
        for number in {int(position["symbol"]) for position in open_positions(self.kernel)}:
            market = a["market"][number]
            quoted = market["quote_ns"] != R.MISSING and next_ns - market["quote_ns"] <= self.max_age_ns
            # a position is open, and trades, depth and quotes of its symbol can be trusted
            if quoted and market["tape_ok"] and market["book_ok"]:
                self.seconds[number] += a["modes"][0] >= R.MODE_SHADOW

    def told(self, decisions: np.ndarray, desk: Desk) -> dict[str, dict[str, dict[str, int]]]:
        """Return seconds and decisions by venue symbol and rule, those in shadow or act only."""
        decided = np.zeros_like(self.seconds)
        weighty = decisions[decisions["mode"] >= R.MODE_SHADOW]
        np.add.at(decided, (weighty["symbol"], weighty["rule"]), 1)
        return {pair.symbol: {rule.name: {"seconds": int(seconds), "decisions": int(count)}
                              for rule, seconds, count in zip(self.kernel.rules, self.seconds[s], decided[s], strict=True)
                              if seconds or count}
                for s, pair in enumerate(desk.pairs)}


def by_second(chunk: np.ndarray) -> list[np.ndarray]:
    """Return a chunk of events in pieces that lie in one second each."""
    return np.split(chunk, np.flatnonzero(np.diff(chunk["recv_ns"] // SECOND_NS)) + 1) if len(chunk) else []
