"""What a person must hear of: written to the run's log, rung on the terminal, sent to a webhook, never in the way of the loop."""

import json
import queue
import threading
from collections import deque
from pathlib import Path

import httpx

from engine import clock

WEBHOOK_S = 5.0
SHOWN = 12


class Alarms:
    """Keeps the last events for the screen and tells alarms to whoever listens."""

    def __init__(self, log: Path, webhook: str = ""):
        self.file = open(log, "a", encoding="utf-8")
        self.webhook = webhook
        self.recent: deque[dict] = deque(maxlen=SHOWN)
        self.decisions: deque = deque(maxlen=SHOWN)
        self.unheard = 0               # alarms since the screen last rang
        self.failed = ""               # why the webhook last failed
        self._lock = threading.Lock()
        self._out: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="webhook", daemon=True)
        if webhook:
            self._thread.start()

    def alarm(self, text: str) -> None:
        """Tell something that needs a person."""
        self.unheard += 1
        self.note("alarm", text)
        if self.webhook:
            self._out.put(text)

    def note(self, what: str, text: str) -> None:
        """Write one line to the log."""
        entry = {"time_ns": clock.now_ns(), "what": what, "text": text}
        with self._lock:
            self.recent.append(entry)
            if not self.file.closed:
                self.file.write(json.dumps(entry) + "\n")
                self.file.flush()

    def told(self, what: str, row, loop) -> None:
        """Keep a decision or a fill for the screen."""
        if what == "decision":
            self.decisions.append(row)

    def close(self) -> None:
        """Send what waits and let go of the log."""
        if self._thread.is_alive():
            self._out.put(None)
            self._thread.join(2 * WEBHOOK_S)
        with self._lock:
            self.file.close()

    def _send(self) -> None:
        with httpx.Client(timeout=WEBHOOK_S) as client:
            while (text := self._out.get()) is not None:
                try:
                    client.post(self.webhook, json={"text": f"tapeguard: {text}"}).raise_for_status()
                except httpx.HTTPError as error:
                    self.failed = f"{type(error).__name__}: {error}"
