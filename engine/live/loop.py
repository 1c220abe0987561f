"""From a journaled frame to a decision: the kernel fed by the recorder, each decision journaled before it is acted on."""

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from engine import clock
from engine.errors import SourceFailed, TapeguardError
from engine.gateway.orders import Exit
from engine.instruments import Instrument
from engine.kernel import records as R
from engine.live.account import MOST
from engine.positions import Desk, open_desk
from engine.record.own import Decided, Switch
from engine.record.rows import RowMaker
from engine.record.segment import DECIDED, INSTRUMENTS, SWITCH, Frame
from engine.replay import compile_loop
from engine.rules import MODES, Choice
from engine.run import Pair, Run, Settings
from engine.words import RULE_MODES

SLOTS = MOST                   # positions at once
REMEMBERED = 1 << 17           # latencies kept for the screen and the benchmark
NO_TICK = "0.01"               # of the broker where none was given: such a symbol has no quotes


class Loop:
    """Owns the kernel of a live run; `tap` is what the recorder calls for every journaled frame, in the order of seq."""

    def __init__(self, name: str, journal, choices: list[Choice], settings: Settings, act: Callable[[Exit], None] | None = None,
                 told: Callable[[str, object], None] = lambda what, row: None):
        self.name, self.journal, self.choices, self.settings = name, journal, choices, settings
        self.act, self.told = act, told
        self.run: Run | None = None
        self.desk: Desk | None = None
        self.instruments: list[Instrument] = []
        self.maker: RowMaker | None = None
        self.source = 0                    # of decisions and switches, in the journal
        self.modes = {choice.rule.name: choice.mode for choice in choices}
        self.decided = self.events = 0
        self.took_ns: deque[int] = deque(maxlen=REMEMBERED)        # from the read of a frame to its end in the kernel
        self.folder: Path | None = None    # the exact source that decides
        self._early: list[Frame] = []

    def link(self) -> str:
        """Compile the kernel with a market of one symbol, so that the first frame waits for nothing; return the kernel's name."""
        run = Run([Pair("X", "1", "1", "1", False)], [self.choices], [self.settings], slots=SLOTS)
        compile_loop(run)
        self.folder = run.folder
        return run.folder.name

    def tap(self, seq: int, recv_ns: int, source: int, kind: int, payload: bytes) -> None:
        """Fold one frame that the journal has."""
        frame = Frame(seq, recv_ns, source, kind, 0, payload)
        if self.run is None:
            self._early.append(frame)
            if kind == INSTRUMENTS:
                self._begin(payload)
            return
        try:
            self._fold(frame)
        except TapeguardError:
            raise
        except Exception as error:         # nothing may be decided on a market that was not folded
            raise SourceFailed(f"the live loop failed at seq {seq} ({type(error).__name__}: {error}); the broker-side stops stay, "
                               "please report it with the recording") from error
        self.took_ns.append(clock.now_ns() - recv_ns)

    def _begin(self, payload: bytes) -> None:
        """Open the books with the step sizes that were just journaled, and fold what came before them."""
        self.instruments = [Instrument(**row) for row in json.loads(payload)]
        self.desk = open_desk(self.instruments, NO_TICK)
        self.run = Run(self.desk.pairs, [self.choices], [self.settings], slots=SLOTS)
        self.maker = RowMaker(self.instruments, self.desk.numbers, self.journal.sources)
        for frame in self._early:
            self._fold(frame)
        self._early.clear()

    def _fold(self, frame: Frame) -> None:
        rows = self.maker.rows(frame)
        if not len(rows):
            return
        self.events += len(rows)
        decisions, fills = self.run.feed(rows)
        for row in decisions:
            self._decide(row)
        for row in fills:
            self.told("fill", row)

    def _decide(self, row: np.record) -> None:
        """Journal a decision; one that is to be acted on goes out only when the system has the journal up to it."""
        rule = self.choices[row["rule"]].rule.name
        symbol = self.broker_symbol(int(row["symbol"]))
        sent = self.act is not None and row["result"] == R.ACTED
        decision = f"{self.name}/{row['seq']}/{row['ticket']}/{rule}" if sent else ""
        payload = msgspec.json.encode(Decided(decision, symbol, rule, row.tobytes().hex()))
        self.decided += 1
        self.journal.append(self.source, DECIDED, payload, clock.now_ns())
        self.told("decision", row)
        if sent:
            self.journal.flush()
            self.act(self._exit(row, decision, symbol, rule))

    def _exit(self, row: np.record, decision: str, symbol: str, rule: str) -> Exit:
        position = self.position(int(row["ticket"]))
        return Exit(decision, int(position["order"]), int(row["ticket"]), symbol, int(position["side"]),
                    volume_left=int(position["order_volume"]), stop_ticks=int(position["order_stop_ticks"]), rule=rule,
                    decided_ns=int(row["recv_ns"]))

    def position(self, ticket: int) -> np.record:
        """Return the kernel's record of an open position."""
        a = self.run.arrays
        slots = a["active"][0][:a["active_count"][0]]
        return a["positions"][0][next(k for k in slots if a["positions"][0][k]["ticket"] == ticket)]

    def broker_symbol(self, number: int) -> str:
        """Return the broker's name of a symbol of the kernel, the venue's where the broker has none."""
        names = [name for name, place in self.desk.numbers.items() if place == number]
        return next((i.symbol for i in self.instruments if i.venue == "mt5" and i.symbol in names), names[0])

    def switch(self, rule: str, mode: str, reason: str, take: Callable[[int, bytes], None]) -> None:
        """Give a rule another mode, through the journal as everything else; `take` journals a frame of a kind."""
        number = next(n for n, choice in enumerate(self.choices) if choice.rule.name == rule)
        take(SWITCH, msgspec.json.encode(Switch(rule, number, mode, self.modes[rule], reason)))
        self.modes[rule] = mode

    def kernel_modes(self) -> dict[str, str]:
        """Return the modes as the kernel has them."""
        codes = self.run.arrays["modes"][0] if self.run else [MODES[choice.mode] for choice in self.choices]
        return {choice.rule.name: RULE_MODES[int(code)] for choice, code in zip(self.choices, codes, strict=True)}

