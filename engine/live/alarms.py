"""What a person must hear of: written to the run's log, rung on the terminal, posted to a webhook, never in the way of the loop."""

import json
import re
import shutil
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine import clock
from engine.kernel.records import ALERTED
from engine.live.status import trouble
from engine.live.webhook import Webhook
from engine.record.own import Account, Order
from engine.record.segment import ACCOUNT, OUTCOME

if TYPE_CHECKING:
    from engine.live.session import LiveSession

SHOWN = 12
PROBLEM_S = 5.0                # a broker that cannot be reached is alarmed after this long
QUIET_S = 60.0                 # between two alerts of one rule about one position
_ORDER, _ACCOUNT = msgspec.json.Decoder(Order), msgspec.json.Decoder(Account)


class Alarms:
    """Keeps the last events for the screen and tells alarms to whoever listens."""

    def __init__(self, log: Path, webhook: str = ""):
        self.run = log.parent.name
        self.file = open(log, "a", encoding="utf-8")
        self.webhook = Webhook(webhook) if webhook else None
        self.recent: deque[dict] = deque(maxlen=SHOWN)         # alarms
        self.decisions: dict[tuple, tuple] = {}                # the last of each kind and how many, oldest first
        self.fills: deque = deque(maxlen=4 * SHOWN)            # FILL records
        self.orders: dict[str, Order] = {}                     # by decision, the last ones
        self.unheard = 0               # alarms since the screen last rang
        self._lock = threading.Lock()
        self._refused: set[str] = set()        # kinds of refusal alarmed since an order last went through
        self._alerted_s: dict[tuple[int, int], float] = {}
        self._problem_s: float | None = None   # since when the broker cannot be reached
        self._told: set[str] = set()           # lasting troubles that were alarmed

    def alarm(self, text: str, what: str = "alarm") -> None:
        """Tell something that a person must hear of."""
        entry = self.note(what, text)
        with self._lock:
            self.unheard += 1
        if self.webhook:
            self.webhook.put({"text": f"tapeguard: {text}", "what": what, "run": self.run, "time_ns": entry["time_ns"]})

    def note(self, what: str, text: str) -> dict:
        """Write one line to the log and return it."""
        entry = {"time_ns": clock.now_ns(), "what": what, "text": text}
        with self._lock:
            if what == "alarm":
                self.recent.append(entry)
            if not self.file.closed:
                self.file.write(json.dumps(entry) + "\n")
                self.file.flush()
        return entry

    def ring(self) -> bool:
        """Tell whether an alarm came since this was last asked: then the bell is to be rung."""
        with self._lock:
            rings, self.unheard = self.unheard > 0, 0
        return rings

    def told(self, what: str, row, loop) -> None:
        """Take a decision or a fill of the kernel; a rule that only alerts is heard, though not at every vote."""
        if what == "fill":
            self.fills.append(row)
            return
        kind = tuple(int(row[name]) for name in ("rule", "ticket", "action", "result"))
        _, times = self.decisions.pop(kind, (None, 0))
        self.decisions[kind] = row, times + 1
        if len(self.decisions) > SHOWN:
            del self.decisions[next(iter(self.decisions))]
        place, now_s = (int(row["ticket"]), int(row["rule"])), clock.monotonic_s()
        if row["result"] == ALERTED and now_s - self._alerted_s.get(place, -QUIET_S) >= QUIET_S:
            self._alerted_s[place] = now_s
            self.alarm(f"{loop.choices[row['rule']].rule.name} alerts about position {row['ticket']}", "alert")

    def frame(self, kind: int, payload: bytes, loop) -> None:
        """Take what the broker's thread tells: the end of an order, or a change of the account."""
        if kind == OUTCOME:
            self._ended(_ORDER.decode(payload))
        elif kind == ACCOUNT and any(mode != "off" for mode in loop.modes.values()):
            told = _ACCOUNT.decode(payload)
            if any(change.code == "closed" for change in told.changes):
                self.note("account", f"position {told.ticket} {told.symbol} was closed by somebody else while rules watched it")

    def _ended(self, order: Order) -> None:
        self.orders[order.decision] = order
        while len(self.orders) > 4 * SHOWN:
            del self.orders[next(iter(self.orders))]
        text = f"{order.rule} on position {order.ticket} {order.symbol}: {order.state}"
        kind = re.sub(r"[0-9][0-9.]*", "#", order.reason)
        if order.state == "done":
            self._refused.clear()
        elif order.state == "refused" and kind not in self._refused:
            self._refused.add(kind)
            self.alarm(f"{text}, {order.reason}")
            return
        self.note("order", text + (f", {order.reason}" if order.reason else ""))     # the gateway alarms what failed

    def look(self, live: "LiveSession") -> None:
        """Look for what lasts: a broker that cannot be reached, a disk that fills up."""
        problem, now_s = trouble(live.health), clock.monotonic_s()
        self._problem_s = None if not problem else now_s if self._problem_s is None else self._problem_s
        lasts = self._problem_s is not None and now_s - self._problem_s > PROBLEM_S
        self._lasting("broker", lasts, f"the broker cannot be reached: {problem}; the broker-side stops stay",
                      "the broker is reached again")
        journal = live.recorder.journal
        free = shutil.disk_usage(journal.folder).free
        self._lasting("disk", free < 2 * journal.disk_reserve_bytes,
                      f"{free / 1e9:.1f} GB are free on the disk; the run stops below {journal.disk_reserve_bytes / 1e9:.1f} GB",
                      "there is room on the disk again")

    def _lasting(self, trouble: str, now: bool, text: str, over: str) -> None:
        """Alarm a trouble once when it begins, and note when it is over."""
        if now and trouble not in self._told:
            self._told.add(trouble)
            self.alarm(text)
        elif not now and trouble in self._told:
            self._told.remove(trouble)
            self.note(trouble, over)

    def close(self) -> None:
        """Send what waits, say what could not be sent, and let go of the log."""
        if self.webhook:
            self.webhook.close()
            lost = self.webhook.dropped + len(self.webhook.waiting)
            if lost:
                self.note("webhook", f"{lost} alarms did not reach the webhook ({self.webhook.failed or 'too many at once'})")
        with self._lock:
            self.file.close()
