"""Holds a recorded live run against its replay: the same kernel, fed from the session, must decide the same bytes."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine import clock
from engine.errors import BadInput
from engine.instruments import Instrument
from engine.kernel import records as R
from engine.kernel.market import DECISION, FILL
from engine.live.asked import Asked, by_second
from engine.live.effects import effects
from engine.live.loop import NO_TICK, SLOTS
from engine.live.runfiles import write_run_files
from engine.positions import Desk, open_desk
from engine.record.convert import convert
from engine.record.journal import recording_folder
from engine.record.own import decision_record
from engine.record.store import Session, sessions_folder, write_text_atomic
from engine.rules import Choice, choose, find_rules
from engine.run import Run, Settings
from engine.stream import LIVE_TABLES, Followed, events
from engine.words import ACTIONS, RESULTS

SHOWN = 20


@dataclass
class LiveRun:
    """A live run's folder, its description, and the session it was recorded in."""

    folder: Path
    live: dict
    session: Session

    @property
    def choices(self) -> list[Choice]:
        """The rules as they were, from the archived source; one that was off may have been switched on."""
        rules = find_rules(self.folder / "kernel" / "rules", shipped=False)
        entries = self.live["rules"]
        changes = [f"{name}.{param}={value!r}" for name, entry in entries.items() for param, value in entry["params"].items()]
        return choose(rules, ",".join(f"{name}:{entry['preset']}={entry['mode']}" for name, entry in entries.items()), changes)

    @property
    def desk(self) -> Desk:
        """The kernel's symbols as they were."""
        return open_desk([Instrument(**row) for row in self.live["instruments"]], NO_TICK)

    def kernel(self, desk: Desk, **settings) -> Run:
        """Return the archived kernel in its first state."""
        return Run(desk.pairs, [self.choices], [replace(Settings(**self.live["settings"]), **settings)], slots=SLOTS,
                   kernel=self.folder / "kernel")


def open_run(folder: Path, data: Path) -> LiveRun:
    """Open a live run that has ended and its session."""
    path = folder / "live.json"
    if not path.is_file():
        raise BadInput(f"{folder} is not a live run: it has no live.json; a replay is repeated with tapeguard replay --again")
    live = json.loads(path.read_text(encoding="utf-8"))
    if "instruments" not in live:
        raise BadInput(f"live run {folder.name} ended before the venue's step sizes were known; there is nothing to verify")
    session = sessions_folder(data) / live["session"]
    if not session.exists() and recording_folder(data, live["session"]).is_dir():
        # it was killed, or still runs: then this refuses
        convert(recording_folder(data, live["session"]), data, keep=live["keep"])
    if not (session / "manifest.json").is_file():
        raise BadInput(f"session {live['session']} of live run {folder.name} is not there; put it back under {session.parent}")
    return LiveRun(folder, live, Session(session))


def replayed(run: LiveRun) -> tuple[np.ndarray, np.ndarray, Asked]:
    """Return the decisions and fills of a replay with the recorded outcomes, and what it shows of each rule."""
    desk = run.desk
    kernel = run.kernel(desk)
    asked = Asked(kernel, run.live["limits"]["max_quote_age_s"])
    decisions, fills = [np.zeros(0, DECISION)], [np.zeros(0, FILL)]
    for chunk in events(run.session, Followed(desk.numbers), LIVE_TABLES):
        for piece in by_second(chunk):
            asked.look(int(piece["recv_ns"][0]))
            for kept, rows in zip((decisions, fills), kernel.feed(piece), strict=True):
                if len(rows):
                    kept.append(rows)
    return np.concatenate(decisions), np.concatenate(fills), asked


def recorded(session: Session) -> np.ndarray:
    """Return the decisions a live run made, as it journaled them."""
    texts = session.table("decisions", ["record"])["record"].to_pylist()
    return np.concatenate([np.zeros(0, DECISION), *(decision_record(text) for text in texts)])


def differences(live: np.ndarray, again: np.ndarray, rules: list[str]) -> list[dict]:
    """Return the places at which two lists of decisions differ, in order of seq."""
    found, at_live, at_again = [], 0, 0
    while at_live < len(live) or at_again < len(again):
        one = live[at_live] if at_live < len(live) else None
        two = again[at_again] if at_again < len(again) else None
        if one is not None and two is not None and one.tobytes() == two.tobytes():
            at_live, at_again = at_live + 1, at_again + 1
            continue
        key_one, key_two = (None if row is None else (int(row["seq"]), int(row["ticket"]), int(row["rule"])) for row in (one, two))
        take_one = key_two is None or key_one is not None and key_one <= key_two
        take_two = key_one is None or key_two is not None and key_two <= key_one
        found.append({"seq": (key_one if take_one else key_two)[0], "recorded": told(one, rules) if take_one else None,
                      "replayed": told(two, rules) if take_two else None})
        at_live, at_again = at_live + take_one, at_again + take_two
    return found


def cut_off(run: LiveRun, live: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Return the replayed decisions without those that a kill kept out of the journal, and so from being acted on.

    A decision is journaled right after its frame and those before it. So only the last ones of one frame can be missing,
    where the journal ends with what it has of them, and only of a run that did not end by itself.
    """
    last_seq = int(again["seq"][-1]) if len(again) else 0
    had = int((live["seq"] == last_seq).sum())
    if run.live.get("state") == "ended" or last_seq + had != run.session.manifest["last_seq"]:
        return again
    return again[:int((again["seq"] < last_seq).sum()) + had]


def told(row: np.record, rules: list[str]) -> dict:
    """Return a decision in words and numbers."""
    known = {name: row[name].item() for name in row.dtype.names}
    words = {"rule": rules[known["rule"]], "action": ACTIONS[known["action"]], "result": RESULTS[known["result"]]}
    clean = {name: None if value == R.MISSING or value != value else value for name, value in known.items()}
    return {**clean, **words}


def _positions(session: Session) -> int:
    """Return how many positions the run followed."""
    return len(set(session.table("account", ["ticket"])["ticket"].to_pylist()))


def _seconds(session: Session) -> float:
    return round((session.manifest["last_recv_ns"] - session.manifest["first_recv_ns"]) / 1e9, 1)


def verify(folder: Path, data: Path) -> dict:
    """Return the `verify` object of a live run and leave it in the run's folder."""
    run = open_run(folder, data)
    rules = [choice.rule.name for choice in run.choices]
    live, (again, fills, asked) = recorded(run.session), replayed(run)
    again = cut_off(run, live, again)
    found = differences(live, again, rules)
    result = {"run": folder.name, "session": run.live["session"], "mode": run.live["mode"], "identical": not found,
              "positions": _positions(run.session), "seconds": _seconds(run.session),
              "compared": max(len(live), len(again)), "differences": found[:SHOWN], "different": len(found),
              "asked": asked.told(live, run.desk),
              **effects(run, fills), "verified_ns": clock.now_ns()}
    write_run_files(run, live, fills)
    write_text_atomic(folder / "verify.json", json.dumps(result, indent=1) + "\n")
    return result
