"""The trial ledger: a line of JSON for every configuration tried, so that the best is judged by how many there were."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import clock
from engine.errors import BadInput, SourceFailed
from engine.rules import Choice, params_dict
from engine.run import Settings

REQUIRED = {"id": str, "configuration": str, "time_ns": int, "what": str, "rules": dict, "trades": str,
            "sessions": list,
            "session_delta_r": list}
LOCK_TRIES = 6


@dataclass(frozen=True)
class Trial:
    """One configuration and what came of it; a result that is not known is None."""

    what: str                              # the command that tried it: sweep, measure, ...
    rules: dict                            # acting rule -> preset, params, code (start of the SHA-256 of the file)
    settings: dict
    trades: str                            # what was traded: the entries, or the SHA-256 of a file
    sessions: tuple[str, ...]
    session_delta_r: tuple[float | None, ...]   # mean change in R of each session's trades
    mean_delta_r: float | None             # over all trades
    count: int                             # trades
    fires: int                             # trades in which something was filled

    @property
    def configuration(self) -> str:
        """The hash of everything that was chosen: the same on other sessions, and under another preset's name."""
        rules = {name: {key: entry[key] for key in entry if key != "preset"} for name, entry in self.rules.items()}
        return _hash([rules, self.settings, self.trades])

    @property
    def id(self) -> str:
        """The hash of the configuration, its presets and its sessions."""
        return _hash([self.rules, self.settings, self.trades, sorted(self.sessions)])


@dataclass(frozen=True)
class Ledger:
    """The lines of a ledger in order, and what was wrong with its end."""

    lines: list[dict]
    note: str | None = None


def ledger_path(data: Path) -> Path:
    """Return where the ledger of a data root is."""
    return data / "ledger.jsonl"


def acting_rules(choices: Sequence[Choice]) -> dict:
    """Return the `rules` of a trial: those that act."""
    return {choice.rule.name: {"preset": choice.preset, "params": params_dict(choice),
                               "code": hashlib.sha256(choice.rule.source.encode()).hexdigest()[:16]}
            for choice in choices if choice.mode == "act"}


def settings_dict(settings: Settings) -> dict:
    """Return the `settings` of a trial."""
    return asdict(settings)


def append(path: Path, trials: Sequence[Trial]) -> str | None:
    """Add one line for each trial in one write that reaches the disk; return a note when a torn end was mended."""
    now_ns = clock.now_ns()
    text = "".join(_line(trial, now_ns) for trial in trials)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_name(path.name + ".lock")):
            note = _mend(path)
            with open(path, "ab", buffering=0) as file:
                data = memoryview(text.encode())
                while len(data):
                    data = data[file.write(data):]
                os.fsync(file.fileno())
    except OSError as error:
        raise SourceFailed(f"cannot write the trial ledger {path} ({error.strerror or error})") from None
    return note


def read(path: Path) -> Ledger:
    """Read a ledger; none at all is an empty one, a torn last line is left out with a note, keys not known are kept."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Ledger([])
    except OSError as error:
        raise SourceFailed(f"cannot read the trial ledger {path} ({error.strerror})") from None
    parts = data.split(b"\n")
    tail = parts.pop()
    lines = [_parse(path, number, part) for number, part in enumerate(parts, 1) if part.strip()]
    note = None
    if tail:
        try:
            lines.append(_parse(path, len(parts) + 1, tail))
        except BadInput:
            note = f"{path}, line {len(parts) + 1}, is torn ({len(tail)} bytes) and was left out"
    return Ledger(lines, note)


def count_tried(path: Path, trades: str | None = None, rules: set[str] | None = None) -> int:
    """Count the different configurations tried on the same trades, and if given with no other rules acting.

    The same configuration on other sessions, or tried again, counts once.
    """
    return len({line["configuration"] for line in read(path).lines
                if (trades is None or line["trades"] == trades) and (rules is None or set(line["rules"]) <= rules)})


def _hash(parts: list) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _line(trial: Trial, now_ns: int) -> str:
    return json.dumps({"id": trial.id, "configuration": trial.configuration, "time_ns": now_ns, **asdict(trial)},
                      separators=(",", ":"), allow_nan=False) + "\n"


def _parse(path: Path, number: int, text: bytes) -> dict:
    """Read one line; one that is no trial is an error, because a count without it would be too low."""
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if not isinstance(line, dict):
        shown = repr(text[:40].decode("utf-8", "replace"))
        raise BadInput(f"{path}, line {number}: {shown} is not a JSON object; restore or remove that line")
    for key, kind in REQUIRED.items():
        if not isinstance(line.get(key), kind):
            raise BadInput(f"{path}, line {number}: {key} is {line.get(key)!r}, not {_KINDS[kind]}; "
                           "restore or remove that line")
    return line


_KINDS = {str: "a text", int: "a whole number", dict: "an object", list: "a list"}


def _mend(path: Path) -> str | None:
    """Cut off a last line that has no end, or end it when it is whole; nobody else is writing."""
    if not path.exists():
        return None
    with open(path, "r+b") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return None
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return None
        file.seek(0)
        data = file.read()
        start = data.rfind(b"\n") + 1
        number = data.count(b"\n") + 1
        try:
            _parse(path, number, data[start:])
        except BadInput:
            file.truncate(start)
            note = f"{path}, line {number}, was torn ({len(data) - start} bytes) and was cut off"
        else:
            file.write(b"\n")
            note = f"{path}, line {number}, had no end and was ended"
        file.flush()
        os.fsync(file.fileno())
    return note


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the system lets go of it when a process dies."""
    with open(path, "a+b") as file:
        if sys.platform != "win32":
            import fcntl
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            yield
            return
        import msvcrt
        for attempt in range(LOCK_TRIES):
            file.seek(0)
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)     # waits ten seconds
                break
            except OSError:
                if attempt + 1 == LOCK_TRIES:
                    raise
        try:
            yield
        finally:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
