"""A gateway over a simulated terminal in virtual time, drawn from a seed, and the watch that no deal of it adds risk."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from engine.gateway.client import DirectLink, LinkLost
from engine.gateway.intents import IntentJournal
from engine.gateway.mt5 import Gateway
from engine.gateway.mt5_worker import Desk, Intents
from engine.gateway.orders import Exit, Limits
from engine.gateway.server_clock import ServerClock
from engine.gateway.terminal import SimulatedTerminal, VirtualClock
from engine.gateway.terminal_books import EXPERT, HEDGING, LOT, NETTING, OUT, Book, Spec
from engine.gateway.terminal_faults import KINDS, Faults
from engine.instruments import Instrument
from engine.kernel.records import CLOSE, MISSING, PARTIAL, TIGHTEN

CALL_NS = 1_000_000
NAME = "BTCUSD"


class Killed(BaseException):
    """The engine was killed in the middle of a call."""


class RoughLink(DirectLink):
    """A link whose worker or engine dies at drawn moments, before or after the terminal was asked."""

    def __init__(self, make_desk, clock, dice: random.Random, rate: float):
        super().__init__(make_desk())
        self.make_desk, self.clock, self.dice, self.rate = make_desk, clock, dice, rate

    def ask(self, message: dict, timeout_s: float | None = None) -> dict:
        if message["call"] == "batch":         # time passes and anything may happen between its calls too
            answers = []
            for each in message["calls"]:
                answers.append(self.ask(each))
                if answers[-1]["result"] is None:
                    break
            return {"ok": True, "result": answers, "error": [1, "Success"]}
        self.clock.sleep_s(CALL_NS / 1e9)
        draw = self.dice.random()
        if draw < self.rate:
            self._die(draw < self.rate / 3)
        reply = super().ask(message)
        if draw > 1 - self.rate:
            self._die(draw > 1 - self.rate / 3)
        return reply

    def _die(self, engine_too: bool) -> None:
        self.desk = self.make_desk()
        if engine_too:
            raise Killed
        raise LinkLost("the worker was killed")

    def restart(self) -> bool:
        self.restarts += 1
        return bool(self.desk.handle({"call": "initialize"}).get("result"))


class Rushed(Desk):
    """A worker that does not look once more: the gateway alone has to be right."""

    def _check(self, message: dict, request: dict) -> None:
        pass


class HandClock(VirtualClock):
    """A clock during whose sleeps something may happen."""

    meddle = staticmethod(lambda: None)

    def sleep_s(self, seconds: float) -> None:
        super().sleep_s(seconds)
        self.meddle()


class World:
    """One terminal, one account of a kind, one gateway, and a user who trades by hand."""

    def __init__(self, seed: int, *, mode: int | None = None, reverses: bool | None = None, faults: bool = True,
                 guarded: bool = True, **spec):
        self.dice = dice = random.Random(seed)
        self.mode = dice.choice((HEDGING, NETTING)) if mode is None else mode
        self.reverses = dice.random() < 0.5 if reverses is None else reverses
        drawn = dict(digits=2, tick_points=dice.choice((1, 1, 5, 10)), volume_step=(step := dice.choice((0.01, 0.1, 0.001))),
                     volume_min=step * dice.choice((1, 1, 2)), volume_max=dice.choice((100.0, 1.0)),
                     stops_level=dice.choice((0, 0, 50, 300)), freeze_level=dice.choice((0, 0, 0, 40)),
                     exemode=dice.choice((0, 1, 2, 2, 2, 3)), filling_mode=dice.choice((1, 2, 3, 3)), commission_per_lot=3.5) | spec
        self.spec = Spec(NAME, **drawn)
        self.desk_type = Desk if guarded else Rushed
        self.clock = HandClock(1_760_000_000 * 10**9 + seed % 1000 * 86_400 * 10**9)
        self.book = Book([self.spec], login=5001, mode=self.mode, netting_reverses=self.reverses, balance=10_000_000.0)
        self.other = Book([self.spec], login=6001, mode=self.mode, first_ticket=900_000)
        self.price = dice.randrange(200_000, 9_000_000)
        rates = {kind: dice.choice((0.0, 0.0, 0.01, 0.05)) for kind in KINDS if kind != "block"} if faults else {}
        rates["account"] = min(rates.get("account", 0), 0.002)
        rates["unknown"] = max(rates.get("unknown", 0), dice.choice((0.0, 0.3))) if faults else 0.0
        self.terminal = SimulatedTerminal([self.book, self.other], self.clock, faults=Faults([], rates, seed),
                                          closed_code=dice.choice((10036, 10036, 10013, 10035)),
                                          rewrite_comment=dice.choice((None, None, "broker says")),
                                          deal_lag_ms=dice.choice((0, 0, 100, 900)))
        self.feed_from_ns = self.clock.now_ns()
        self.terminal.feed = self._quotes()
        self.terminal.pump()
        self.link = RoughLink(self._desk, self.clock, random.Random(seed + 1), dice.choice((0.0, 0.002, 0.01)) if faults else 0.0)
        self.sent = Intents(None)
        self.link.desk = self._desk()
        self.link.restart()
        self.journal, self.alarms = IntentJournal(), []
        self.instrument = Instrument(NAME, "mt5", str(self.spec.tick_points / 100), str(self.spec.volume_step), 2, 3)
        self.limits = Limits(accounts=frozenset({5001}), symbols=frozenset({NAME}), actions_per_minute=10**6, actions_per_day=10**6,
                             max_spread_bps=100.0, max_deviation_bps=dice.choice((0.0, 10.0)), give_up_s=30.0, doubt_s=20.0, settle_s=5.0)
        self.holds = random.Random(seed + 3)
        self.gateway = self._gateway()
        self.wrong: list[str] = []
        self.closed: Counter = Counter()       # volume by decision, of deals
        self.current = ""
        self.book.on_deal, self.terminal.servers[5001].on_levels = self._see_deal, self._see_levels
        self.other.on_deal = lambda deal, position, before: self._note(deal.reason == EXPERT, "a deal on the other account")
        self.ends: Counter = Counter()
        self.number, self.hands = 0, random.Random(seed + 2)
        self.clock.meddle = self.snatch
        self.execute = self.terminal.servers[5001].execute
        self.terminal.servers[5001].execute = self._see_request

    def _flying(self, identifier: int) -> list[int]:
        """Return the volumes of our requests for a position that are under way, 0 for the change of a stop."""
        ticket = position.ticket if (position := self.book.find(identifier)) else 0
        orders = [order for order in self.book.orders.values() if order.position_id == identifier and order.reason == EXPERT]
        asked = [later.request for later in self.book.later if later.request.get("position") == ticket]
        return [order.left for order in orders] + [round(request.get("volume", 0.0) * LOT) for request in asked]

    def _see_request(self, request: dict, fault: dict) -> dict:
        held = self.book.positions.get(request["position"])
        self._note(held is not None and bool(self._flying(held.identifier)), f"{request} went out while another is under way")
        return self.execute(request, fault)

    def snatch(self) -> None:
        """Close a part by hand: in a doubt, or at any moment, also between a look and its order, where the server checks the volume."""
        if not self.book.positions or self.book.quote(NAME) is None:
            return
        position = self.hands.choice(list(self.book.positions.values()))
        flying = sum(self._flying(position.identifier))
        if self.hands.random() > (0.1 if flying else 0.001):
            return
        volume = position.volume
        if self.mode == NETTING and self.reverses:         # here it is checked by nobody: what is under way has to fit
            volume = volume - flying if flying else 0
        steps = volume // round(self.spec.volume_step * LOT)
        if steps > 1:
            lots = self.hands.randrange(1, steps) * round(self.spec.volume_step * LOT) / LOT
            self.book.by_hand(NAME, 1 - position.type, lots, position_id=position.identifier)
            self.ends["in doubt" if flying else "snatched"] += 1

    def _desk(self) -> Desk:
        return self.desk_type(self.terminal.module, getattr(self, "sent", None) or Intents(None))

    def _gateway(self) -> Gateway:
        return Gateway(self.link, self.limits, self.journal, self.clock, {NAME: self.instrument}, server=ServerClock(),
                       alarm=self.alarms.append, may_send=lambda exit: "held" if self.holds.random() < 0.02 else "")

    def _quotes(self):
        now_ns, dice = self.feed_from_ns, random.Random(self.price)
        step, tick = dice.choice((1, 20, 200)), self.spec.tick_points
        while True:
            bid = self.price // tick * tick
            yield now_ns, NAME, bid, bid + tick * dice.randrange(1, 8)
            self.price = max(self.price + dice.randint(-step, step) * tick, 100_000)
            now_ns += dice.randrange(20, 400) * 10**6

    def _note(self, wrong: bool, text: str) -> None:
        if wrong:
            self.wrong.append(f"{self.current}: {text}")

    def _see_deal(self, deal, position, before: int) -> None:
        if deal.reason != EXPERT:
            return
        self._note(deal.entry != OUT, f"deal {deal} is no exit")
        self._note(position.volume != before - deal.volume, f"deal {deal}: {before} became {position.volume}")

    def _see_levels(self, position, before: tuple[int, int]) -> None:
        sign = 1 if position.type == 0 else -1
        old, take = before
        self._note(position.sl <= 0 or old > 0 and sign * (position.sl - old) < 0, f"stop {old} became {position.sl}, side {sign}")
        self._note(position.tp != take, f"take profit {take} became {position.tp}")

    def open(self) -> None:
        """Open a position by hand."""
        side, step = self.dice.randrange(2), round(self.spec.volume_step * LOT)
        lots = max(self.dice.randrange(1, 60) * step, round(self.spec.volume_min * LOT)) / LOT
        bid, ask = self.book.quote(NAME)
        sign, far = (1, bid) if side == 0 else (-1, ask)
        distance = self.dice.randrange(100, 20_000)
        sl = far - sign * distance if self.dice.random() < 0.7 else 0
        tp = far + sign * distance * 2 if self.dice.random() < 0.5 else 0
        self.book.by_hand(NAME, side, lots, sl=sl / 100, tp=tp / 100)

    def meddle(self) -> None:
        """Close a part, or move a stop, by hand, where that races with nothing of ours."""
        if self.book.later or not self.book.positions:
            return
        position = self.dice.choice(list(self.book.positions.values()))
        step = round(self.spec.volume_step * LOT)
        if self.dice.random() < 0.5 and position.volume > step:
            lots = self.dice.randrange(1, position.volume // step + 1) * step / LOT
            self.book.by_hand(NAME, 1 - position.type, lots, position_id=position.identifier)
        else:
            position.sl = 0 if self.dice.random() < 0.3 else position.sl + self.dice.randint(-500, 500) if position.sl else 0

    def draw(self) -> Exit:
        """Return a request, mostly sensible, sometimes one that asks for more risk."""
        dice, self.number = self.dice, self.number + 1
        name = f"w/{self.number if dice.random() < 0.95 or self.number < 3 else dice.randrange(1, self.number)}"
        positions = list(self.book.positions.values())
        position = dice.choice(positions) if positions and dice.random() < 0.97 else None
        side = (1 if position.type == 0 else -1) if position and dice.random() < 0.97 else dice.choice((1, -1, 0))
        action = dice.choice((CLOSE, PARTIAL, PARTIAL, TIGHTEN, TIGHTEN)) if dice.random() < 0.97 else dice.choice((0, 1, 9, -1))
        step = round(self.spec.volume_step * LOT)
        left = dice.randrange(-2, (position.volume if position else LOT) // step + 2)
        price = self.book.quote(NAME)[0] // self.spec.tick_points - side * dice.randint(0, 2000)
        return Exit(name, action, position.identifier if position else dice.randrange(10**6), NAME if dice.random() < 0.99 else "EURUSD", side,
                    left if action == PARTIAL else MISSING, price + dice.randint(-300, 300) if action == TIGHTEN else MISSING, "any")

    def one(self) -> None:
        """Do one request, with whatever comes between."""
        self.clock.sleep_s(self.dice.choice((0.01, 1.0, 30.0)))
        self.terminal.pump()
        if not self.book.positions or self.mode == HEDGING and len(self.book.positions) < 3 and self.dice.random() < 0.3:
            self.open()
        if self.dice.random() < 0.1:
            self.meddle()
        if self.dice.random() < 0.3:
            self.terminal.login, self.terminal.session.pipe_open = 5001, True
        request = self.draw()
        self.current = f"{request}"
        held = self.book.find(request.identifier)
        again, asked = self.journal.known(request.decision) is not None, len(self.terminal.log)
        before, deals = (held.volume if held else 0), set(self.book.deals)
        try:
            if self.dice.random() < 0.1:
                self.gateway.start(request)
                self.gateway.start(request)
                for _ in range(400):
                    self.gateway.poll()
                    self.clock.sleep_s(0.1)
                    if not self.gateway.queue:
                        break
                self.ends["polled"] += 1
            else:
                self.ends[self.gateway.act(request).state] += 1
        except Killed:
            self.ends["killed"] += 1
            self._recover()
        own = sum(deal.volume for ticket, deal in self.book.deals.items() if ticket not in deals and deal.reason == EXPERT)
        keep = round(request.volume_left * self.spec.volume_step * LOT) if request.action == PARTIAL else 0
        self._note(own > max(before - keep, 0) + 2, f"closed {own} of {before}, was to keep {keep}")
        self._note(again and len(self.terminal.log) > asked, "a decision on record was acted on again")
        self.ends["again"] += again
        self._note(own > 0 and request.action not in (CLOSE, PARTIAL), "dealt for what is no close")

    def _recover(self) -> None:
        """Start again from the journal, as often as it takes; in the end the broker is well."""
        faults = self.terminal.faults
        for tries in range(100):
            self.gateway = self._gateway()
            rate, rates = self.link.rate, faults.rates
            if tries >= 10:
                self.link.rate, faults.rates = 0.0, {}
            try:
                self.terminal.login = 5001
                self.link.restart()
                self.gateway.recover()
                if not self.journal.unfinished():
                    return
            except Killed:
                continue
            finally:
                self.link.rate, faults.rates = rate, rates
        raise AssertionError("never recovered")

    def check(self) -> None:
        """Assert that nothing went wrong, also by what the books say."""
        assert not self.wrong, "\n".join(self.wrong[:5])
        opened, closed = Counter(), Counter()
        for deal in self.book.deals.values():
            (opened if deal.entry == 0 else closed)[deal.position_id] += deal.volume
            assert deal.entry in (0, OUT) and (deal.reason != EXPERT or deal.entry == OUT)
        for identifier, volume in closed.items():
            assert volume <= opened[identifier]
        assert not self.journal.unfinished() and not self.gateway.busy


@contextmanager
def dying(link, executed: bool = True) -> Iterator[None]:
    """Let the engine end in the middle of every order, executed by the broker or not."""
    ask = link.ask

    def die(message, timeout_s=None):
        if message["call"] == "order_send":
            if executed:
                ask(message)
            raise Killed
        return ask(message)
    link.ask = die
    try:
        yield
    finally:
        link.ask = ask
