"""A simulated terminal from a JSON file, whose broker outlives the process: every change is written to a state file first."""

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from time import sleep

from engine import clock
from engine.errors import BadInput, TapeguardError, nearest
from engine.gateway.server_clock import ServerClock
from engine.gateway.terminal import SimulatedTerminal
from engine.gateway.terminal_books import MS, Book, Deal, Later, Order, Position, Spec
from engine.gateway.terminal_faults import Faults
from engine.gateway.terminal_settings import read_settings

MODES = {"hedging": 2, "netting": 0}
KEPT = {"positions": Position, "orders": Order, "past_orders": Order, "deals": Deal}


class WallClock:
    """Real time."""

    def now_ns(self) -> int:
        """Return wall time in nanoseconds."""
        return clock.now_ns()

    def monotonic_s(self) -> float:
        """Return seconds for measuring durations."""
        return clock.monotonic_s()

    def sleep_s(self, seconds: float) -> None:
        """Wait."""
        sleep(seconds)


def walk(seed: int, symbol: str, bid: int, spread: int, every_ms: int, step: int, from_ns: int) -> Iterator[tuple]:
    """Yield an endless random walk of quotes."""
    dice, now_ns = random.Random(seed), from_ns
    while True:
        yield now_ns, symbol, bid, bid + spread
        bid = max(bid + dice.randint(-step, step), step + 1)
        now_ns += every_ms * MS


def book_state(book: Book) -> dict:
    """Return all of an account that has to survive."""
    return {"login": book.login, "balance": book.balance, "next_ticket": book.next_ticket, "now_ns": book.now_ns,
            "quotes": {name: list(rows[-1]) for name, rows in book.ticks.items() if rows}, "later": [asdict(each) for each in book.later],
            "waiting": book.waiting} | {name: [asdict(row) for row in getattr(book, name).values()] for name in KEPT}


def restore_book(book: Book, state: dict) -> None:
    """Put an account back as it was saved."""
    book.balance, book.next_ticket, book.now_ns = state["balance"], state["next_ticket"], state["now_ns"]
    for name, kind in KEPT.items():
        setattr(book, name, {row["ticket"]: kind(**row) for row in state[name]})
    book.later, book.waiting = [Later(**row) for row in state["later"]], state["waiting"]
    for name, row in state["quotes"].items():
        book.ticks[name].append(tuple(row))


def _save(path: Path, terminal: SimulatedTerminal) -> None:
    text = json.dumps([book_state(server.book) for server in terminal.servers.values()])
    aside = path.with_name(path.name + ".aside")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def _restore(books: list[Book], path: Path) -> None:
    """Put the accounts back as they were saved."""
    try:
        saved = {row["login"]: row for row in json.loads(path.read_text(encoding="utf-8"))}
        for book in books:
            restore_book(book, saved[book.login])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: not the state of these accounts ({type(error).__name__}: {error}); delete it to begin anew") from None


def build(config: dict, at=None) -> SimulatedTerminal:
    """Return the terminal a configuration describes, its books restored where there is a state file."""
    at = at or WallClock()
    specs = [Spec(**row) for row in config["symbols"]]
    books = [Book(specs, login=row.get("login", 5001), mode=MODES[row.get("mode", "hedging")], balance=row.get("balance", 100_000.0),
                  leverage=row.get("leverage", 100), clock=ServerClock(config.get("clock_rule", "new_york+7")),
                  netting_reverses=row.get("netting_reverses", True)) for row in config.get("accounts", [{}])]
    faults = Faults(list(config.get("faults", [])), config.get("rates", {}), config.get("seed", 0), config.get("late_ms", 2000))
    state = Path(config["state"]) if config.get("state") else None
    if state and state.exists():
        _restore(books, state)
    else:
        books[0].waiting = list(config.get("positions", []))
        for symbol, bid, ask in config.get("quotes", []):
            for book in books:
                book.push(at.now_ns(), symbol, bid, ask)
    feed = walk(from_ns=at.now_ns(), **config["walk"]) if config.get("walk") else ()
    terminal = SimulatedTerminal(books, at, faults=faults, feed=feed, password=config.get("password", ""))
    if state:
        terminal.save = lambda: _save(state, terminal)
        terminal.save()
    return terminal


def load_terminal(path: str) -> tuple[object, Callable]:
    """Return the module of a terminal in this process, and its controls."""
    settings, follows = read_settings(Path(path))
    if follows:
        raise BadInput(f"{path}: \"follow\" needs a terminal process of its own; start it with: tapeguard sim terminal {path}")
    terminal = build(settings)
    return terminal.module, controls(terminal)


def controls(terminal: SimulatedTerminal) -> Callable:
    """Return what a test or a demo does to the terminal from outside, by name."""
    def by_hand(row):
        terminal.book.by_hand(**row)

    def state():
        terminal.pump()
        return [book_state(server.book) for server in terminal.servers.values()]
    known = {"push": terminal.push, "by_hand": by_hand, "state": state, "fault": terminal.faults.add, "log": lambda: terminal.log}

    def control(name, *args):
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"control {name!r} is not known; {nearest(str(name), known)}")
        with terminal.lock:
            terminal.pump()
            try:
                result = known[name](*args)
            except TapeguardError as error:
                raise ValueError(str(error)) from None
            terminal.save()
            return result
    return control
