"""What the gateway is about to do, written down before it is done: append-only JSON lines, on the disk before the order goes out."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine.errors import BadInput

DAY_NS, MINUTE_NS = 86_400 * 10**9, 60 * 10**9
BEGIN, ATTEMPT, END, REFUSAL = "begin", "attempt", "end", "refused"


class IntentJournal:
    """One `begin` per decision, one `attempt` per order sent for it, one `end`, or one `refused`; all of it outlives a restart.

    With no path it is kept in memory, for simulations.
    """

    def __init__(self, path: Path | None = None):
        self.decisions: dict[str, dict] = {}
        self.begun_ns: list[int] = []
        self.file = None
        if path is None:
            return
        if path.exists():
            self._read(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.disk = open(path, "ab"), ThreadPoolExecutor(1)

    def _read(self, path: Path) -> None:
        """Take what an earlier process wrote, and cut off an end that never got to the disk: no order went out after that."""
        whole = path.read_bytes()
        kept = whole[:whole.rfind(b"\n") + 1]
        if len(kept) < len(whole):
            os.truncate(path, len(kept))
        lines = kept.split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line or b"\0" in line:         # what a power loss leaves where bytes were to be
                continue
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                if number < len(lines) - 1 and not line.startswith(b'{"what"'):
                    raise BadInput(f"{path}, line {number}: not an entry of the gateway's journal; do not edit it") from None

    def _take(self, entry: dict) -> None:
        if entry["what"] == BEGIN:
            self.decisions[entry["decision"]] = entry | {"attempts": [], "end": None}
            self.begun_ns.append(entry["at_ns"])
        elif entry["what"] == ATTEMPT:
            self.decisions[entry["decision"]]["attempts"].append(entry)
        elif entry["what"] == REFUSAL:
            self.decisions.setdefault(entry["decision"], entry | {"attempts": [], "end": entry})
        else:
            self.decisions[entry["decision"]]["end"] = entry

    def write(self, what: str, decision: str, at_ns: int, *, sync: bool = True, **fields) -> None:
        """Append one entry; when this returns it is on the disk, with all before it, unless `sync` is off."""
        entry = {"what": what, "decision": decision, "at_ns": at_ns} | fields
        if self.file is not None:
            self.file.write(json.dumps(entry).encode() + b"\n")
            self.file.flush()
            if sync:
                os.fsync(self.file.fileno())
        self._take(entry)

    def sync_meanwhile(self) -> Callable[[], None]:
        """Begin to bring all that was written to the disk; what is returned waits until it is there."""
        return self.disk.submit(os.fsync, self.file.fileno()).result if self.file is not None else lambda: None

    def known(self, decision: str) -> dict | None:
        """Return what is on record for a decision."""
        return self.decisions.get(decision)

    def unfinished(self) -> list[dict]:
        """Return the decisions that were begun and never ended, oldest first."""
        return [entry for entry in self.decisions.values() if entry["end"] is None]

    def since(self, now_ns: int, span_ns: int) -> int:
        """Return how many decisions were begun in the time before now."""
        count = 0
        for at_ns in reversed(self.begun_ns):
            if at_ns <= now_ns - span_ns:
                break
            count += 1
        return count

    def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            self.disk.shutdown()
            self.file.close()
