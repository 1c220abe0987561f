"""What the tools may see: the sessions and runs under one data root, by name and never by path."""

import re
import threading
from collections import OrderedDict
from pathlib import Path

from engine.analysis.calibration import published
from engine.analysis.moment import Moment, canonical, parse_at, score_code, utc_text
from engine.analysis.runs import RunFolder, exit_answer, positions_answer
from engine.analysis.summary import analyse_moment, signal_answer, trend_answer
from engine.analysis.symbols import resolve
from engine.entries import parse_entries, plan_entries
from engine.errors import BadInput, nearest
from engine.measure.measure import Options, measure
from engine.positions import open_desk
from engine.record.catalog import list_sessions
from engine.record.recording import Recording, find_recording
from engine.record.store import Session, sessions_folder
from engine.replay import Plan
from engine.rules import choose, find_rules
from engine.runlog import runs_folder

CALIBRATION = ("symbol", "window_s", "horizon_s", "called", "reason", "judged_n", "brier", "brier_of_a_coin")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,119}")
KEPT = 2  # moments held for the next question
MOST_MEASURED_S, MOST_TRADES = 4 * 3600, 2_000
DEFAULT_ENTRIES = "every=30s,side=both,sl=10bps,tp=15bps,max=120s"


class Library:
    """Answers every tool; one question at a time."""

    def __init__(self, data: Path):
        self.data = Path(data)
        self._moments: OrderedDict[str, Moment] = OrderedDict()
        self._lock = threading.Lock()

    def observed(self, name: str | None, symbol: str | None = None) -> Session | Recording:
        """Return what can be analysed under a name: a session, or a recording in progress."""
        if isinstance(name, str) and NAME.fullmatch(name) and (recording := find_recording(self.data, name)):
            return recording
        return self.session(name, symbol)

    def session(self, name: str | None, symbol: str | None = None) -> Session:
        """Return the session of a name, or the newest whole one that has the symbol."""
        if name is not None:
            return Session(self._folder(sessions_folder(self.data), name, "session", "list_sessions lists them"))
        entries = [entry for entry in list_sessions(self.data) if entry["state"] == "complete"]
        for entry in sorted(entries, key=lambda entry: entry["last_recv_ns"], reverse=True):
            try:
                resolve(symbol or "", entry["symbols"])
                return Session(entry["path"])
            except BadInput:
                continue
        recorded = sorted({each for entry in entries for each in entry["symbols"]})
        if not recorded:
            raise BadInput("nothing is recorded yet: tapeguard demo, import or record makes a session")
        resolve(symbol or "", recorded)
        raise BadInput(f"symbol {symbol!r} means different symbols in the sessions; name one of {', '.join(recorded)}")

    def _folder(self, root: Path, name: str, what: str, hint: str) -> Path:
        if not isinstance(name, str) or not NAME.fullmatch(name) or ".." in name:
            raise BadInput(f"{what} {str(name)[:60]!r} is no name of a {what}; give a name, not a path; {hint}")
        known = (
            [path.name for path in root.glob("*") if path.is_dir() and not path.name.startswith(".")]
            if root.is_dir()
            else []
        )
        if name not in known:
            raise BadInput(
                f"no {what} {name!r}; {nearest(name, known[:50]) if known else 'there are none yet'}; {hint}"
            )
        return root / name

    def moment(self, session: Session | Recording, at: str | int | None) -> Moment:
        """Return a session folded up to a time, going on from the last question where that is possible."""
        at_ns = parse_at(at, session)
        target = session.manifest["last_recv_ns"] if at_ns is None else at_ns
        held = self._moments.pop(str(session.path), None)
        # another recording may have the name, and the folder, of one that has ended
        if held is None or held.as_of_ns is None or held.as_of_ns > target or held.began_ns != session.manifest["first_recv_ns"]:
            held = Moment.of_session(session, at_ns)
        else:
            held.advance(at_ns)
        held.calibrations = published(self.data)
        self._moments[str(session.path)] = held
        while len(self._moments) > KEPT:
            self._moments.popitem(last=False)
        return held

    def analyse_symbol(
        self,
        symbol: str,
        session: str | None = None,
        at: str | None = None,
        direction: str | None = None,
        detail: str = "brief",
    ) -> dict:
        """Return the whole analysis, order flow first."""
        with self._lock:
            return analyse_moment(self.moment(self.observed(session, symbol), at), symbol, direction, detail)

    def get_order_flow(
        self,
        symbol: str,
        session: str | None = None,
        at: str | None = None,
        window: int | str = 30,
        detail: str = "brief",
    ) -> dict:
        """Return order flow over one window."""
        with self._lock:
            return signal_answer(self.moment(self.observed(session, symbol), at), symbol, window, detail)

    def get_order_flow_trend(
        self,
        symbol: str,
        session: str | None = None,
        at: str | None = None,
        window: int | str = 300,
        detail: str = "brief",
    ) -> dict:
        """Return where order flow is going."""
        with self._lock:
            return trend_answer(self.moment(self.observed(session, symbol), at), symbol, window, detail)

    def list_sessions(self, limit: int = 10, cursor: int = 0) -> dict:
        """Return a page of sessions, newest first."""
        entries = list_sessions(self.data)[::-1]
        page = [
            {
                "session": entry["session"],
                "venue": entry["venue"],
                "symbols": entry["symbols"],
                "state": entry["state"],
                "from": _when(entry["first_recv_ns"]),
                "to": _when(entry["last_recv_ns"]),
                "rows": entry["rows"],
                "problem": entry.get("problem", "").replace(str(self.data), "") or None,
            }
            for entry in entries[cursor : cursor + limit]
        ]
        root = runs_folder(self.data)
        runs = (
            sorted(path.name for path in root.glob("*") if (path / "manifest.json").is_file()) if root.is_dir() else []
        )
        return {
            "summary": f"{len(entries)} sessions, {len(page)} shown; {len(runs)} runs",
            "total": len(entries),
            "sessions": page,
            "runs": runs[:20],
            "runs_total": len(runs),
            "next_cursor": cursor + limit if cursor + limit < len(entries) else None,
        }

    def list_positions(
        self, run: str, limit: int = 8, cursor: int = 0, ended_by: str | None = None, rule: str | None = None
    ) -> dict:
        """Return a page of a run's positions."""
        return positions_answer(self._run(run), limit, cursor, ended_by, rule)

    def explain_exit(self, run: str, ticket: int, detail: str = "brief") -> dict:
        """Return why a position ended."""
        return exit_answer(self._run(run), ticket, detail)

    def _run(self, name: str) -> RunFolder:
        return RunFolder(self._folder(runs_folder(self.data), name, "run", "list_sessions names the runs"))

    def measure_rules(
        self, session: str, rules: str = "all", entries: str = DEFAULT_ENTRIES, draws: int = 199, seed: int = 1
    ) -> dict:
        """Return what each rule was worth on a session, against random exits; every try is counted in the ledger."""
        with self._lock:
            opened = self.session(session)
            first_ns, last_ns = opened.manifest["first_recv_ns"], opened.manifest["last_recv_ns"]
            if last_ns - first_ns > MOST_MEASURED_S * 10**9:
                raise BadInput(
                    f"session {session} lasts {(last_ns - first_ns) / 3.6e12:.1f} h; this tool measures up to "
                    f"{MOST_MEASURED_S // 3600} h, "
                    "tapeguard measure takes any"
                )
            pairs = open_desk(opened.instruments, "0.01").pairs
            spec = parse_entries(entries)
            if not spec.symbol and len(pairs) > 1:
                raise BadInput(
                    f"session {session} has several symbols; add symbol= to entries, one of "
                    f"{', '.join(pair.symbol for pair in pairs)}"
                )
            if (last_ns - first_ns) // spec.every_ns > MOST_TRADES:
                raise BadInput(
                    f"entries {entries!r} make more than {MOST_TRADES} moments; a larger every= would be right"
                )
            plan = Plan(opened, plan_entries(spec, first_ns, last_ns, pairs[0].symbol), choose(find_rules(), rules, []))
            result, _ = measure([plan], self.data, Options(seed, draws, attribution=False, trades=entries))
            newest = published(self.data).get(result["calibration"]["symbol"])
            if newest is not None and newest["score_code"] == score_code():
                result["calibration"] = newest
        return _measured(result, session, entries, draws, seed)


def _when(time_ns) -> str | None:
    """Return a manifest's time as text, None when it is not one."""
    return utc_text(time_ns) if isinstance(time_ns, int) and 0 <= time_ns < 2**63 else None


def _measured(result: dict, session: str, entries: str, draws: int, seed: int) -> dict:
    rules = {
        name: {
            **{
                key: rule[key]
                for key in ("preset", "fired", "saved", "improved", "neutral", "harmed", "too_late", "verdict")
            },
            "change_r": rule["delta_r"]["mean"],
            "excess_r": rule["excess_r"]["mean"],
            "p_holm": rule["excess_r"]["p_holm"],
        }
        for name, rule in result["rules"].items()
    }
    for rule in rules.values():
        rule.update(
            {
                key: None if rule[key] is None else float(f"{rule[key]:.4g}")
                for key in ("change_r", "excess_r", "p_holm")
            }
        )
    told = ", ".join(f"{name} {rule['verdict']}" for name, rule in rules.items())
    return {
        "summary": f"{result['trades']} trades, {result['quotes']} quotes: {told}",
        "session": session,
        "entries": entries,
        "draws": draws,
        "seed": seed,
        "trades": result["trades"],
        "quotes": result["quotes"],
        "baseline_r": float(f"{result['baseline_r']:.4g}"),
        "rules": rules,
        "configurations_tried": result["configurations_tried"],
        "calibration": {name: result["calibration"][name] for name in CALIBRATION},
        "units": "R, initial risks a trade; excess_r is over random exits at like moments; p_holm is adjusted for "
        "the rules measured together",
    }


def size_of(answer: dict) -> int:
    """Return the bytes of an answer as it is sent."""
    return len(canonical(answer).encode())
