"""One live run from start to verified end: the recorder, the loop and the broker's threads, and who may stop them."""

import asyncio
import contextlib
import gc
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from engine import clock
from engine.errors import BadInput, SourceFailed, TapeguardError
from engine.gateway.intents import IntentJournal
from engine.gateway.mt5 import Gateway
from engine.gateway.terminal_config import WallClock
from engine.live import admission, commands
from engine.live.alarms import Alarms
from engine.live.broker import Health, Quotes, Trader
from engine.live.first import FirstSeen
from engine.live.guard import Guard
from engine.live.loop import Loop
from engine.live.options import CAP, LiveOptions, capped, check_mode, described, least
from engine.live.terminal import Account, keep_pairs, open_account, worker
from engine.live.verify import verify
from engine.record.convert import convert, recover
from engine.record.journal import hold
from engine.record.quality import check_session
from engine.record.recorder import Recorder, open_journal
from engine.record.segment import Origin
from engine.record.session import named_after, tell
from engine.record.store import Session, write_text_atomic
from engine.runlog import runs_folder

LOOK_S = 0.1                   # between two looks at the guard, the commands and the screen
END_S = 240.0                  # what is under way at the broker may take as long to end: a restart of the worker and two waits
SWITCH_S = 0.0005              # a thread that has the interpreter gives it to one that waits
CLOCK_READS = 25               # of positions: five seconds
MOST_WAITING = 10_000          # frames of the broker's threads that the recorder has not taken yet


class LiveSession:
    """Everything of one live run."""

    def __init__(self, options: LiveOptions, data: Path, say: Callable[[str], None]):
        check_mode(options.mode)
        self.options, self.data, self.say = options, data, say
        self.wall = WallClock()
        # the run ends itself: the recorder has to go on until the last outcome is in
        self.duration_s, options.recording.duration_s = options.recording.duration_s, None
        self.started_ns = clock.now_ns()
        stamp = datetime.fromtimestamp(self.started_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%S")
        self.name = f"live-{options.mode}-{stamp}"
        self.folder = runs_folder(data) / self.name
        self.session_name = f"{named_after(options.recording.symbols)}-{stamp}"
        options.choices = capped(options.choices, options.mode)
        # no rule acts before every feed is well: those that may begin in shadow
        self.held = {choice.rule.name: choice.mode for choice in options.choices if choice.mode == "act"}
        self.health = Health()
        self.description: dict = {}
        self.alarms: Alarms | None = None
        self.guard: Guard | None = None
        self.proven: set[str] = set()          # rules that may act, by the proof this run was admitted with
        self.account: Account | None = None
        self.waiting, self.counting = 0, threading.Lock()
        self.ending = False
        self.asked_to_end = asyncio.Event()

    def run(self, show: Callable[["LiveSession"], None] | None = None) -> dict:
        """Run until told to stop; return the live object with the check of its session and its verification."""
        home = self.data / "live"
        home.mkdir(parents=True, exist_ok=True)
        with hold(home):
            self.say("reaching the terminal")
            self.link = worker(self.options.terminal, home / "sent.jsonl")
            self.quotes_link = worker(self.options.terminal, home / "quotes.jsonl")
            try:
                self.account = open_account(self.options, self.link, self.wall, self.data)
                result = self._run(home, show)
            finally:
                self.link.stop()
                self.quotes_link.stop()
            finish_left(self.data, self.options.keep, self.say)        # last: open positions do not wait for old recordings
            return result

    def _run(self, home: Path, show) -> dict:
        options, account = self.options, self.account
        self._settle_options(account)
        self.journal_of_intents = IntentJournal(home / "intents.jsonl")
        journal = open_journal(self.data, self.session_name, **options.journal)
        try:
            self.loop = Loop(self.name, journal, capped(options.choices, "shadow"), options.settings,
                             self._act if options.mode == "act" else None, self._told)
            self.loop.link()
            if options.mode == "act":
                self.proven = admission.admit(options, account, self.loop.folder.name, self.data)
            self._open_folder()
            self.recorder = Recorder(options.recording, journal, self.loop.tap)
            self.broker_source = journal.source(Origin("mt5", "mt5", "account", options.terminal.name.partition(":")[0]))
            self.loop.source = self.broker_source
            with short_pauses():
                asyncio.run(self._live(show))
        except (TapeguardError, KeyboardInterrupt) as error:
            journal.close()
            if "instruments" not in self.description:          # nothing of the market was recorded: no run began
                if self.alarms:
                    self.alarms.close()
                for folder in (journal.folder, self.folder):
                    shutil.rmtree(folder, ignore_errors=True)
            elif isinstance(error, TapeguardError):
                self._note_end("failed")
            raise
        finally:
            journal.close()
            with contextlib.suppress(OSError):         # a full disk was told by what failed on it
                self.journal_of_intents.close()
        self._note_end("ended")
        return finish(self.folder, journal.folder, self.data, options.keep, self.say) | {"account": account.shown}

    def _settle_options(self, account: Account) -> None:
        """Complete what only the terminal can tell: step sizes, the one account that may be acted on."""
        options = self.options
        options.recording.given = tuple(account.instruments.values())
        options.settings = _replaced(options.settings, simulate=options.mode == "paper")
        options.limits = _replaced(options.limits, accounts=frozenset({account.login}), symbols=frozenset(account.instruments),
                                   kill_file=commands.kill_file(self.data))

    def _open_folder(self) -> None:
        self.folder.mkdir(parents=True)
        shutil.copytree(self.loop.folder, self.folder / "kernel", ignore=shutil.ignore_patterns("__pycache__"))
        self.description = described(self.options, self.name, self.session_name, self.loop.folder, self.account.shown, self.started_ns)
        self.description["pid"] = os.getpid()
        self._write()
        self.alarms = Alarms(self.folder / "log.jsonl", self.options.webhook)

    def _write(self) -> None:
        write_text_atomic(self.folder / "live.json", json.dumps(self.description, indent=1) + "\n")

    def _note_end(self, state: str) -> None:
        self.description |= {"state": state, "ended_ns": clock.now_ns()}
        self._write()
        self.alarms.close()

    async def _live(self, show) -> None:
        self.here = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):   # on Windows: cancelled
                self.here.add_signal_handler(number, self.asked_to_end.set)
        instruments = self.account.instruments
        self.quotes = Quotes(self.quotes_link, list(instruments), self.wall, self.deliver, self.health,
                             (self.account.login, self.account.shown["server"]))
        gateway = Gateway(self.link, self.options.limits, self.journal_of_intents, self.wall, instruments, alarm=self._alarm,
                          may_send=self._may_send)
        self.trader = Trader(self.link, gateway, instruments, self.deliver, self.health, self.quotes.utc_ns,
                              FirstSeen(self.data / "live" / "first.json", self.account.shown["id"]), CLOCK_READS)
        self.guard = Guard(self.recorder.watch, self.health, list(instruments), self.options.limits.max_quote_age_s,
                           tape=self.options.recording.endpoint.near, back_s=self.options.hold_back_s)
        recording = asyncio.create_task(self.recorder.run())
        steering = asyncio.create_task(self._steer(show))
        with contextlib.suppress(asyncio.CancelledError):      # Ctrl-C where a loop takes no signals
            await asyncio.wait({recording, steering}, return_when=asyncio.FIRST_COMPLETED)
        steering.cancel()
        try:
            await self._wind_down()
        finally:
            self.ending = True
            self.recorder.stop()
            ends = await asyncio.gather(recording, steering, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _steer(self, show) -> None:
        """Start the broker's threads when the venue is known, then see to guard, commands and screen until it is to end."""
        if not await self._started():
            return
        self.description["instruments"] = [i.as_dict() for i in self.loop.instruments]
        self._write()
        keep_pairs(self.account, self.data)
        self.quotes.start()
        self.trader.start()
        end_s = None if self.duration_s is None else clock.monotonic_s() + self.duration_s
        while not self.asked_to_end.is_set() and (end_s is None or clock.monotonic_s() < end_s):
            self._steps()
            show = self._shown(show)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self.asked_to_end.wait()

    async def _started(self) -> bool:
        """Wait until the venue is known; return False where the end is asked for before."""
        waits = [asyncio.create_task(each.wait()) for each in (self.recorder.started, self.asked_to_end)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return not self.asked_to_end.is_set()

    def _shown(self, show: Callable | None) -> Callable | None:
        """Draw the screen; return what draws it from now on, None once it failed: positions are worth more than a screen."""
        try:
            if show:
                show(self)
            return show
        except Exception as error:
            self._alarm(f"the screen is given up ({type(error).__name__}: {error}); the run goes on")
            return None

    async def _wind_down(self) -> None:
        """Let no rule act any more, wait for what is under way at the broker, and let its outcome be recorded, however it ends."""
        for rule, mode in self.loop.modes.items():
            if mode == "act":
                self._switch(rule, "shadow", "the run ends")
        for thread in (self.trader, self.quotes):
            if thread.ident is not None:
                thread.stop()
                await asyncio.to_thread(thread.join, END_S)
                if thread.is_alive():
                    self._alarm(f"the {thread.name} thread did not end within {END_S:.0f} s: orders may be under way, look at the terminal")
        while self.waiting:
            await asyncio.sleep(0.01)

    def _steps(self) -> None:
        for thread in (self.trader, self.quotes):
            if not thread.is_alive():
                raise SourceFailed(f"{self.health.ended}; the broker-side stops stay, start the run again")
        if self.options.mode != "record":
            self._guard()
        self.alarms.look(self)
        for path, command in commands.take(self.folder):
            commands.answer(path, self._obey(command))

    def _guard(self) -> None:
        found = self.guard.look()
        if found:
            self.held = {rule: mode for rule, mode in self.loop.modes.items() if mode == "act"}
            for rule in self.held:
                self._switch(rule, "shadow", f"held: {found}")
            if self.held:
                self._alarm(f"{len(self.held)} rules held: {found}; the broker-side stops stay ({', '.join(self.held)})")
        elif found == "":
            for rule, mode in self.held.items():
                self._switch(rule, mode, "the feeds are well")
            if self.held:
                self.alarms.note("guard", f"{', '.join(self.held)} may act: the feeds are well")
            self.held = {}
        if why := self.guard.lasting():
            self._alarm(f"{why}; no rule acts meanwhile, the broker-side stops stay")

    def _switch(self, rule: str, mode: str, reason: str) -> None:
        self.loop.switch(rule, mode, reason, lambda kind, payload: self.recorder.take(self.broker_source, kind, payload))

    def _obey(self, command: dict) -> dict:
        """Carry out a command from another window and say what came of it."""
        try:
            if command.get("do") == "stop":
                self.asked_to_end.set()
                return {"ok": True, "said": "the run ends"}
            rule, mode = commands.parse_switch(command.get("switch", ""))
            if rule not in self.loop.modes:
                raise BadInput(f"no rule {rule!r}; there are {', '.join(self.loop.modes)}")
            if least(mode, CAP[self.options.mode]) != mode:
                raise BadInput(f"a {self.options.mode} run takes no rule beyond {CAP[self.options.mode]}")
            if self.options.mode == "act" and mode == "act" and rule not in self.proven:
                raise BadInput(f"{rule} was not asked with these parameters in the verified shadow run; it cannot act in this run")
            was = self.held[rule] if rule in self.held else self.loop.modes[rule]
            if self.guard.held and mode == "act":
                self.held[rule] = mode
                return {"ok": True, "said": f"{rule} is held ({self.guard.held}) and will be act when the feeds are well"}
            self.held.pop(rule, None)
            self._switch(rule, mode, "by command")
            self.alarms.note("switch", f"{rule}: {was} -> {mode} by command")
            return {"ok": True, "said": f"{rule}: {was} -> {mode}"}
        except BadInput as error:
            return {"ok": False, "said": str(error)}

    def deliver(self, kind: int, payload: bytes) -> None:
        """Hand a frame of a broker's thread to the recorder; called from there, and waits while too many wait."""
        while self.waiting > MOST_WAITING and not self.ending:
            clock.sleep_s(0.01)
        with self.counting:
            self.waiting += 1
        with contextlib.suppress(RuntimeError):        # the loop is closed: the run has ended
            self.here.call_soon_threadsafe(self._take, kind, payload)

    def _take(self, kind: int, payload: bytes) -> None:
        with self.counting:
            self.waiting -= 1
        self.recorder.take(self.broker_source, kind, payload)
        self.alarms.frame(kind, payload, self.loop)

    def _act(self, exit) -> None:
        """Hand a decision over; one that was taken while a feed was late is to be refused: the guard looks ten times a second only."""
        self.trader.submit(exit, self.guard.reason())

    def _may_send(self, exit) -> str:
        """Return why a decision may not go out, or out again; asked by the trading thread."""
        if self.guard.held:
            return f"the rules are held: {self.guard.held}"
        mode = self.loop.modes[exit.rule]
        return "" if mode == "act" else f"the mode of {exit.rule} is {mode} now"

    def _alarm(self, text: str) -> None:
        self.alarms.alarm(text)

    def _told(self, what: str, row) -> None:
        if self.alarms:
            self.alarms.told(what, row, self.loop)


@contextlib.contextmanager
def short_pauses():
    """Let neither a collection of what was there before nor a thread of the broker's side hold up the loop for long."""
    before_s = sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)
        gc.unfreeze()


def _replaced(value, **changes):
    import dataclasses
    return dataclasses.replace(value, **changes)


def finish(folder: Path, journal: Path, data: Path, keep: str, say: Callable[[str], None]) -> dict:
    """Turn the recording of a live run that has ended into a session, check it, and verify the run."""
    say("converting the journal")
    converted = convert(journal, data, keep=keep)
    if converted["session"] is None:
        raise BadInput("nothing was recorded")
    say("checking the session")
    checked = check_session(Session(converted["path"]))
    say("verifying: the recording goes through the same kernel again")
    return {"run": folder.name, "path": str(folder), "session": converted["session"], "check": checked, "verify": verify(folder, data)}


def finish_left(data: Path, keep: str, say: Callable[[str], None]) -> list[dict]:
    """Make sessions of recordings that a kill left, and end and verify the live runs among them."""
    for left in recover(data, keep):
        tell(left, say)
    done = []
    for path in sorted(runs_folder(data).glob("live-*/live.json")):
        live = json.loads(path.read_text(encoding="utf-8"))
        began, running = "instruments" in live, live["state"] == "running"
        if (path.parent / "verify.json").exists() or not (began or running):
            continue
        if running:
            write_text_atomic(path, json.dumps({**live, "state": "killed"}, indent=1) + "\n")
        try:
            found = verify(path.parent, data)
            done.append(found)
            same = "replays to the same" if found["identical"] else "DIFFERS in its"
            say(f"live run {live['run']} was left unfinished; its recording {same} decisions")
        except TapeguardError as error:
            say(f"live run {live['run']} was left unfinished: {error}")
    return done
