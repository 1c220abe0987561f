"""The dead man's switch: when what the rules rest on is stale they are held, and the broker-side stops stay as they are."""

import math
import re
from dataclasses import dataclass, field

from engine import clock
from engine.live.broker import Health
from engine.record.watch import BEST, DEPTH, TRADES, Stream, Watch

FOLDED = (DEPTH, BEST, TRADES)
NEAR_MS = 60_000.0             # a venue's clock that is farther from ours tells that ours is wrong, or that a tape is played
LASTING_S = 5.0                # a reason that lasts so long is told, also where rules are held for another one
STARTING = "the feeds are not up yet"


@dataclass
class Guard:
    """Judges whether rules may act; they are given back only after all was well for `back_s`."""

    watch: Watch
    health: Health
    symbols: list[str]                 # of the broker
    max_quote_age_s: float = 5.0
    max_account_age_s: float = 5.0
    max_lag_s: float = 3.0
    back_s: float = 10.0
    tape: bool = False                 # the venue may be a tape of the past
    held: str = STARTING               # why rules are held, empty while they are not
    _well_s: float = field(default_factory=clock.monotonic_s)
    _why: str = ""                     # the reason now, without its numbers; since when; and the one that was told
    _since_s: float = 0.0
    _told: str = ""

    def look(self) -> str | None:
        """Return why rules are to be held from now on, "" when they are given back, None when nothing changes."""
        now_s, why = clock.monotonic_s(), self.reason()
        kind = re.sub(r"[0-9.]+", "#", why)
        if kind != self._why:
            self._why, self._since_s = kind, now_s
        if why:
            self._well_s = now_s
            news, self.held = not self.held, why
            if news:
                self._told = kind
            return why if news else None
        if self.held and now_s - self._well_s >= self.back_s:
            self.held = self._told = ""
            return ""
        return None

    def back_in_s(self) -> float | None:
        """Return in how long held rules are given back, None while something is wrong and where none is held."""
        if not self.held or self._why:
            return None
        return round(max(0.0, self.back_s - (clock.monotonic_s() - self._well_s)), 1)

    def lasting(self) -> str:
        """Return, once, a reason that has lasted and was not told when the rules were held, "" for none."""
        if not self._why or self._why == self._told or clock.monotonic_s() - self._since_s < LASTING_S:
            return ""
        self._told = self._why
        return self.held

    def reason(self) -> str:
        """Return what is wrong now, "" for nothing."""
        now_s, health, offset_ms = clock.monotonic_s(), self.health, self.watch.offset_ms
        if not self.tape and offset_ms is not None and abs(offset_ms) >= NEAR_MS:
            return f"this machine's clock is {abs(offset_ms) / 1e3:.0f} s {'behind' if offset_ms > 0 else 'ahead of'} the venue's"
        for stream in self.watch.streams.values():
            if stream.kind not in FOLDED:
                continue
            if stream.silent or not stream.last_s:
                return f"{stream.name} is {'silent' if stream.silent else 'not connected'}"
            if not stream.heard:
                return f"{stream.name} has not been heard since it connected"
            late_s = self._late_s(stream)
            if late_s > self.max_lag_s:
                return f"{stream.name} arrives {late_s:.1f} s late"
        for book in self.watch.books.values():
            if not book.synced:
                return f"the book of {book.symbol} is not in step with the venue"
        if now_s - health.looked_s > self.max_account_age_s:
            return f"the account was not read for {self.max_account_age_s:.0f} s" + (f": {health.problem}" if health.problem else "")
        for symbol in self.symbols:
            if now_s - health.quoted_s.get(symbol, 0.0) > self.max_quote_age_s:
                why = f": {health.quotes_problem}" if health.quotes_problem else ""
                return f"no new quote of {symbol} for {self.max_quote_age_s:.0f} s{why}"
        if not health.terminal.get("trade_allowed", True):
            return "Algo Trading is switched off in the terminal"
        return ""

    def _late_s(self, stream: Stream) -> float:
        """Return how long after the venue pushed them the newest frames came, NaN where nothing tells."""
        offset_ms = self.watch.offset_ms
        # the time of a tape passes at another pace than ours: nobody can tell what is late
        if offset_ms is None or abs(offset_ms) >= NEAR_MS:
            return math.nan
        wall_ms = clock.now_ns() / 1e6 - clock.monotonic_s() * 1e3     # when the monotonic clock was at 0
        return (stream.behind_ms + wall_ms + offset_ms) / 1e3
