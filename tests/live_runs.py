"""Live runs over real processes and sockets: a simulated exchange, a simulated terminal and `tapeguard live`, each a process.

`Stage` starts and ends them by process id; `Witness` looks at the broker's books all the while and judges them at the end.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from engine.cli import main
from engine.gateway.terminal_client import control_of

RULES = Path(__file__).with_name("live_rules")
START_S, END_S = 90.0, 120.0
LOGIN, MAGIC = 5001, 7_418_520
LIMITS = ("--actions-per-minute", "100000", "--actions-per-day", "1000000", "--max-share", "1")
ACT = ("--mode", "act", "--account", str(LOGIN), *LIMITS)
RULES_ON = "ladder=act,follower=act"
OUT_ENTRIES = (1, 2, 3)


def wait_for(found, seconds: float, what: str, more=str):
    """Return what `found` gives as soon as it is true; `more` tells what stands in the way."""
    end_s = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {seconds:.0f} s: {what} {more()}")
        time.sleep(0.02)
    return value


class Command:
    """One `tapeguard` process of its own; what it prints goes to files."""

    def __init__(self, folder: Path, name: str, *arguments: str, piped: bool = False, program: tuple[str, ...] = ("-m", "engine.cli")):
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen([sys.executable, *program, *arguments], stdout=out, cwd=Path(__file__).parents[1],
                                            stderr=subprocess.PIPE if piped else err)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def said(self) -> str:
        """What it printed on standard error, of its lines of status only the last."""
        lines = self.err.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(line for number, line in enumerate(lines) if not line.startswith("{") or number >= len(lines) - 1)

    def line(self) -> dict | None:
        """Return the JSON object it printed, None before."""
        if self.process.poll() not in (None, 0):
            raise AssertionError(f"it ended with {self.process.returncode}: {self.said()}")
        text = self.out.read_text(encoding="utf-8")
        return json.loads(text) if text.endswith("\n") else None

    def wait(self, seconds: float = END_S) -> int:
        """Return its exit code."""
        return self.process.wait(seconds)

    def result(self, seconds: float = END_S) -> dict:
        """Return the JSON object of a command that ended well."""
        code = self.wait(seconds)
        assert code == 0, f"exit {code}: {self.said()}"
        return json.loads(self.out.read_text(encoding="utf-8"))

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Interrupt it as Ctrl-C does, and kill it when that is not heard."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.kill()


def children(pid: int) -> list[int]:
    """Return the workers of a live run, by process id, in the order they were started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] + [
            int(child) for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)
            for child in (task / "children").read_text().split()]
    except OSError:
        return []


def worker_of(pid: int, name: str) -> int | None:
    """Return the worker that keeps its intents in a file of this name: sent.jsonl trades, quotes.jsonl polls quotes."""
    for child in children(pid):
        with contextlib.suppress(OSError):
            if name.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
    return None


class Stage:
    """An exchange, a terminal and a data root."""

    def __init__(self, folder: Path, capture: Path, *, speed: float = 1.0, exchange: tuple[str, ...] = (), **config):
        self.folder, self.data, self.address = folder, folder / "data", folder / "address.json"
        self.state, self.commands = folder / "state.json", 0
        self.exchange = self.terminal = None
        self.all: list[Command] = []
        try:
            self.tape, self.port = (str(capture), "--speed", str(speed), *exchange), "0"
            self.start_exchange()
            follow = {"symbol": "BTCUSD", "stream": "btcusdt@bookTicker", "ws": self.ws, "path": "/public", "lag_ms": 100.0}
            self.config = {"symbols": [{"name": "BTCUSD"}], "state": str(self.state), "follow": [follow]} | config
            (folder / "terminal.json").write_text(json.dumps(self.config), encoding="utf-8")
            self.start_terminal()
        except BaseException:
            self.close()
            raise
        self.control = control_of(self.address)

    def start(self, *arguments: str, name: str = "", **more) -> Command:
        """Start a command."""
        self.commands += 1
        made = Command(self.folder, name or f"{self.commands}-{arguments[0]}", *arguments, **more)
        self.all.append(made)
        return made

    def start_exchange(self) -> None:
        """Start the exchange at the beginning of its tape, where it was before."""
        if self.exchange:
            self.exchange.end()
        self.exchange = self.start("sim", "exchange", *self.tape, "--port", self.port, name=f"exchange-{self.commands}")
        where = wait_for(self.exchange.line, START_S, "the exchange said where it is")
        self.ws, self.rest, self.port = where["ws"], where["rest"], where["ws"].rpartition(":")[2]

    def start_terminal(self) -> None:
        """Start the terminal and wait until it is reached."""
        self.terminal = self.start("sim", "terminal", str(self.folder / "terminal.json"), "--address", str(self.address),
                                   name=f"terminal-{self.commands}")
        wait_for(self.terminal.line, START_S, "the terminal said where it is")

    def live(self, *arguments: str, rules: str = RULES_ON, **more) -> Command:
        """Start `tapeguard live`."""
        return self.start("live", "BTCUSDT", "--ws", self.ws, "--rest", self.rest, "--terminal", f"simulated:@{self.address}", "--map",
                          "BTCUSDT=BTCUSD", "--data", str(self.data), "--reserve-gb", "0.1", "--rules-dir", str(RULES), "--rules", rules,
                          "--hold-back-s", "0.3", "--cooldown-ms", "100", "--max-spread-bps", "100", "--max-quote-age-s", "30",
                          "--json-lines", "--json", *arguments, **more)

    def ask(self, *arguments: str) -> tuple[int, dict | None, str]:
        """Do another command on the data root; return its exit code, its JSON object and what it said."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*arguments, "--data", str(self.data), "--json"])
        return code, json.loads(out.getvalue()) if out.getvalue() else None, err.getvalue()

    def proven(self, folder: Path) -> None:
        """Take the proof of parity that a shadow run of another data root left."""
        shutil.copytree(folder, self.data / "runs" / folder.name)
        (self.data / "live").mkdir()
        shutil.copy(folder.parents[1] / "live" / "salt", self.data / "live" / "salt")

    def by_hand(self, side: int, lots: float, **more) -> None:
        """Trade by hand in the terminal."""
        self.control("by_hand", {"symbol": "BTCUSD", "side": side, "lots": lots, **more})

    def close(self) -> None:
        """End whatever still runs."""
        for each in reversed(self.all):
            each.end()


def run_of(stage: Stage, live: Command) -> Path | None:
    """Return the folder of a live run that has begun, None before."""
    for path in (stage.data / "runs").glob("live-*/live.json"):
        if json.loads(path.read_text(encoding="utf-8")).get("pid") == live.pid:
            return path.parent
    return None


def acting(stage: Stage, live: Command) -> bool:
    """Tell whether the rules of a live run were allowed to act, by its log."""
    if live.process.poll() is not None:
        raise AssertionError(f"it ended with {live.process.returncode}: {live.said()}")
    run = run_of(stage, live)
    return run is not None and (run / "log.jsonl").is_file() and "may act" in (run / "log.jsonl").read_text(encoding="utf-8")


def status(live: Command) -> dict:
    """Return the last status a live run printed, empty before the first; a run that ended badly is not waited for."""
    if live.process.poll() not in (None, 0):
        raise AssertionError(f"it ended with {live.process.returncode}: {live.said()}")
    last = live.said().rpartition("\n")[2]
    return json.loads(last) if last.startswith("{") and last.endswith("}") else {}


def begun(stage: Stage) -> int:
    """Return how many decisions the gateway has begun to act on, in all runs of a data root."""
    return sum(entry["begin"] is not None for entry in intents(stage.data).values())


@dataclass
class Seen:
    """What was seen of one position at the broker."""

    type: int
    volumes: list[int] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)


class Witness(threading.Thread):
    """Looks at the terminal's books again and again, over whatever is killed meanwhile."""

    def __init__(self, stage: Stage, every_s: float = 0.1):
        super().__init__(daemon=True)
        self.stage, self.every_s = stage, every_s
        self.seen: dict[tuple[int, int], Seen] = {}
        self.sent: list[dict] = []             # every order_send the terminal got, over its restarts
        self.wrong: list[str] = []
        self.books: list[dict] = []
        self.stopped = threading.Event()
        self._logs: dict[int, int] = {}

    def run(self) -> None:
        """Look until told to end."""
        while not self.stopped.wait(self.every_s):
            self.look()

    def look(self) -> bool:
        """Look once; return whether the terminal answered."""
        terminal = self.stage.terminal.pid
        try:
            log, books = self.stage.control("log"), self.stage.control("state")
        except (ValueError, OSError):
            return False
        if terminal == self.stage.terminal.pid:
            self.sent += [request for _, request in log[self._logs.get(terminal, 0):]]
            self._logs[terminal] = len(log)
        self.books = books
        for book in books:
            for row in book["positions"]:
                self._position(book["login"], row)
        return True

    def _position(self, login: int, row: dict) -> None:
        known = self.seen.setdefault((login, row["identifier"]), Seen(row["type"]))       # accounts may give the same number
        name = f"position {row['identifier']}"
        if row["type"] != known.type:
            self.wrong.append(f"{name} was reversed")
        if known.volumes and row["volume"] > known.volumes[-1]:
            self.wrong.append(f"{name} grew from {known.volumes[-1]} to {row['volume']}")
        old = known.stops[-1] if known.stops else 0
        if old and (row["sl"] == 0 or (1 if row["type"] == 0 else -1) * (row["sl"] - old) < 0):
            self.wrong.append(f"{name}: its stop went from {old} to {row['sl']}")
        if not known.volumes or known.volumes[-1] != row["volume"]:
            known.volumes.append(row["volume"])
        if old != row["sl"]:
            known.stops.append(row["sl"])

    def end(self) -> None:
        """Take a last look and end."""
        self.stopped.set()
        self.join()
        wait_for(self.look, 10, "the terminal answered the last look")


def intents(data: Path) -> dict[str, dict]:
    """Return what the gateway's journal says of every decision: its begin, its attempts and its end."""
    found: dict[str, dict] = {}
    path = data / "live" / "intents.jsonl"
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            one = found.setdefault(entry["decision"], {"begin": None, "attempts": [], "end": None})
            if entry["what"] == "attempt":
                one["attempts"].append(entry)
            else:
                one["begin" if entry["what"] == "begin" else "end"] = entry
    return found


def faults_of(witness: Witness, data: Path) -> list[str]:
    """Return everything that an exit manager must never do and that was done, in words."""
    wrong = list(witness.wrong)
    known = intents(data)
    for book in witness.books:
        deals, orders = book["deals"], {order["ticket"]: order for order in book["past_orders"] + book["orders"]}
        for deal in deals:
            if deal["magic"] == MAGIC and deal["entry"] not in OUT_ENTRIES[:1]:
                wrong.append(f"deal {deal['ticket']} of ours has entry {deal['entry']}")
        for identifier in {deal["position_id"] for deal in deals}:
            rows = [deal for deal in deals if deal["position_id"] == identifier]
            opened, closed = (sum(deal["volume"] for deal in rows if (deal["entry"] == 0) is entry) for entry in (True, False))
            left = sum(row["volume"] for row in book["positions"] if row["identifier"] == identifier)
            if closed > opened or opened - closed != left:
                wrong.append(f"position {identifier}: opened {opened}, closed {closed}, left {left}")
        for decision, entry in known.items():
            wrong += _dealt(decision, entry, deals, orders)
    names = [attempt["intent"] for entry in known.values() for attempt in entry["attempts"]]
    if len(names) != len(set(names)):
        wrong.append("an intent was written twice")
    if len(witness.sent) > len(names):
        wrong.append(f"{len(witness.sent)} orders reached the terminal, {len(names)} were written down")
    return wrong


def _dealt(decision: str, entry: dict, deals: list[dict], orders: dict[int, dict]) -> list[str]:
    """Return what is wrong with the deals of one decision."""
    if entry["begin"] is None:
        return [f"{decision} was refused and sent"] if entry["attempts"] else []
    comments = {attempt["request"].get("comment") for attempt in entry["attempts"]} - {None}
    volume = sum(deal["volume"] for deal in deals if orders[deal["order"]]["comment"] in comments) / 1e8
    most = entry["begin"]["position"]["volume"] - entry["begin"]["keep_lots"] if comments else 0.0
    wrong = [f"{decision} closed {volume} lots, {most} were meant"] if volume > most + 1e-9 else []
    if entry["end"] is None:
        wrong.append(f"{decision} has no end")
    elif (state := entry["end"]["outcome"]["state"]) not in ("done", "failed", "unknown", "refused"):
        wrong.append(f"{decision} ended {state} after it was begun")
    elif state == "refused" and (volume or entry["end"]["outcome"]["sends"]):
        wrong.append(f"{decision} was refused after it was sent")
    return wrong


def orphans(data: Path) -> list[int]:
    """Return workers of this data root that still run."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            with contextlib.suppress(OSError):
                command = (path / "cmdline").read_bytes()
                if b"mt5_worker" in command and str(data).encode() in command:
                    found.append(int(path.name))
    return found
