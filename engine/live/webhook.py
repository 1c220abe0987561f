"""Alarms posted to a webhook by a thread of its own: in their order, tried again, and never in the way of the loop."""

import threading
from collections import deque
from urllib.parse import urlsplit

import httpx

from engine.errors import BadInput

ANSWER_S = 5.0
MOST = 64                      # alarms that wait; more are counted and left out
RETRY_S = (1.0, 4.0)
END_S = 10.0


def check_webhook(url: str) -> None:
    """Raise BadInput for an address nothing can be posted to; what follows the host may be a secret and is not repeated."""
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise BadInput("--webhook: that is no address to post to; https://host/path is right")


class Webhook(threading.Thread):
    """Posts JSON objects, one after the other."""

    def __init__(self, url: str):
        super().__init__(name="webhook", daemon=True)
        self.url = url
        self.waiting: deque[dict] = deque()
        self.sent = self.dropped = 0   # dropped: too many waited, or no try went through
        self.failed = ""               # why the last try failed; empty once one went through
        self._changed = threading.Condition()
        self._untold = 0               # dropped since the last one that arrived
        self._ending = False
        self.start()

    def put(self, message: dict) -> None:
        """Leave a message to be posted; returns at once."""
        with self._changed:
            if len(self.waiting) >= MOST:
                self._drop()
            else:
                self.waiting.append(message)
                self._changed.notify()

    def close(self) -> None:
        """Give what waits one more try each, for a few seconds."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self.join(END_S)

    def run(self) -> None:
        """Post until closed and nothing waits."""
        with httpx.Client(timeout=ANSWER_S) as client:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self.waiting or self._ending)
                    if not self.waiting:
                        return
                    message = self.waiting[0] | ({"dropped_before": self._untold} if self._untold else {})
                arrived = self._deliver(client, message)
                with self._changed:
                    self.waiting.popleft()
                    if arrived:
                        self.sent, self._untold = self.sent + 1, 0
                    else:
                        self._drop()

    def _drop(self) -> None:
        self.dropped, self._untold = self.dropped + 1, self._untold + 1

    def _deliver(self, client: httpx.Client, message: dict) -> bool:
        """Post one message, again after a failure; return whether it arrived."""
        for pause_s in (*RETRY_S, 0.0):
            self.failed = self._post(client, message)
            if not self.failed:
                return True
            with self._changed:
                self._changed.wait_for(lambda: self._ending, pause_s)
                if self._ending:
                    break
        return False

    def _post(self, client: httpx.Client, message: dict) -> str:
        """Post once; return what went wrong, without any part of the address."""
        try:
            answer = client.post(self.url, json=message)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__
        return "" if answer.is_success else f"it answered {answer.status_code}"
