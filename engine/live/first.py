"""The stop and the volume a position had first: what R and shares of it are measured by, kept over restarts."""

import json
from pathlib import Path

from engine.errors import BadInput
from engine.record.store import write_text_atomic

MOST = 10_000                  # positions remembered of an account, the newest


class FirstSeen:
    """What is remembered of the positions of one account, by identifier: stop (absent before there was one) and lots of the terminal."""

    def __init__(self, path: Path | None = None, account: str = ""):
        self.path, self.account = path, account
        self.known: dict[str, dict[str, float]] = {}
        self._others: dict[str, dict] = {}
        if path is None or not path.exists():
            return
        try:
            self._others = json.loads(path.read_text(encoding="utf-8"))
            self.known = {name: {key: float(entry[key]) for key in entry} for name, entry in self._others.get(account, {}).items()}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise BadInput(f"{path} is not what live wrote ({error}); move it away: then R of positions that are open is measured by the "
                           "stops they have now") from None

    def see(self, identifier: int, lots: float, stop: float) -> dict[str, float]:
        """Remember a position that is there, and return what it was at first: `lots`, the most it had, and `stop` if it had any."""
        was = self.known.get(str(identifier), {})
        now = {"lots": max(lots, was.get("lots", lots))} | ({"stop": was.get("stop", stop)} if stop or "stop" in was else {})
        if now != was:
            self.known[str(identifier)] = now
            self._write()
        return now

    def forget(self, identifier: int) -> None:
        """Forget a position that is gone."""
        if self.known.pop(str(identifier), None):
            self._write()

    def _write(self) -> None:
        if self.path is not None:
            newest = dict(sorted(self.known.items(), key=lambda item: int(item[0]))[-MOST:])
            write_text_atomic(self.path, json.dumps(self._others | {self.account: newest}) + "\n")
