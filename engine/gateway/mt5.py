"""The gateway to MetaTrader 5: closes, reduces and tightens, once per decision, and refuses everything else.

Every action is a generator of waits, so that one thread can see to many positions; `act` runs one to its end.
"""

import hashlib
import heapq
from collections.abc import Callable, Generator

from engine.gateway.client import LinkLost
from engine.gateway.intents import ATTEMPT, BEGIN, DAY_NS, END, MINUTE_NS, REFUSAL, IntentJournal
from engine.gateway.orders import (
    DONE,
    FAILED,
    REFUSED,
    SLTP,
    UNKNOWN,
    Exit,
    Limits,
    Outcome,
    Plan,
    Refusal,
    check_exit,
    fillings,
    frozen,
    keep_lots,
    plan_deal,
    plan_stop,
)
from engine.gateway.outcomes import End, Work, book_outcome, check_side
from engine.gateway.reconcile import CHANGED, DEAD, NOTHING, REACHED, UNCLEAR, before, ours, settle, turned
from engine.gateway.recovery import Recovery, doubts
from engine.gateway.retcodes import ASK, FOLLOW, FRESH, GONE, NEXT_FILLING, OK, PART, STOP, Code, classify
from engine.gateway.retcodes import UNKNOWN as NO_ANSWER
from engine.gateway.server_clock import ServerClock
from engine.gateway.symbols import masked
from engine.gateway.view import BROKEN, QuoteAges, Reader, Unreadable, View
from engine.instruments import Instrument
from engine.kernel.records import MISSING, PARTIAL, REJECTED, TIGHTEN

LOOKS, LOOK_AGAIN_S = 8, 0.25
FREEZE_WAIT_S, FREEZE_WAITS = 1.0, 5
SLOW_DISK_S = 0.5
AHEAD_S = 1.0                              # a decision is not of the future
Steps = Generator[float, None, Outcome]


class Gateway:
    """Acts on the positions of one terminal through a link; `alarm` hears of every end that needs a person.

    `may_send` tells why a decision may not be sent now, "" where it may; it is asked in the thread that polls.
    """

    def __init__(self, link, limits: Limits, journal: IntentJournal, clock, instruments: dict[str, Instrument], *,
                 server: ServerClock | None = None, alarm: Callable[[str], None] = lambda text: None,
                 may_send: Callable[[Exit], str] = lambda exit: ""):
        self.link, self.limits, self.journal, self.clock, self.instruments = link, limits, journal, clock, instruments
        self.reader = Reader(link, clock, limits.accounts)
        self.ages = QuoteAges(server)
        self.alarm, self.may_send = alarm, may_send
        self.busy: dict[int, Work] = {}
        self.doubt_until_s = doubts(journal, clock)
        self.queue: list[tuple[int, int, Generator[float, None, Outcome | None]]] = []
        self.count = 0
        self.recovery = Recovery(self)
        self.ending = False                    # then nothing is begun any more

    def act(self, exit: Exit) -> Outcome:
        """Do one action to its end; return how it ended."""
        steps = self.steps(exit)
        while True:
            try:
                self.clock.sleep_s(next(steps))
            except StopIteration as end:
                return end.value

    def start(self, exit: Exit, why: str = "") -> None:
        """Begin one action; `poll` brings it on. With a `why` it is refused for that reason."""
        self.count += 1
        heapq.heappush(self.queue, (self.clock.now_ns(), self.count, self.steps(exit, why)))

    def poll(self) -> list[Outcome]:
        """Bring on every action that is due; return those that ended."""
        ended = []
        while self.queue and self.queue[0][0] <= self.clock.now_ns():
            _, number, steps = heapq.heappop(self.queue)
            try:
                wait_s = next(steps)
                heapq.heappush(self.queue, (self.clock.now_ns() + max(round(wait_s * 1e9), 1), number, steps))
            except StopIteration as end:
                if end.value is not None:
                    ended.append(end.value)
        return ended

    def steps(self, exit: Exit, why: str = "") -> Steps:
        """Yield seconds to wait; return how the action ended. What is on record already is answered from there."""
        known = self.journal.known(exit.decision)
        if any(work.exit.decision == exit.decision for work in self.busy.values()):
            return Outcome(exit.decision, REFUSED, "this decision is being acted on", REJECTED)
        if known is not None:
            return Outcome(**{key: value for key, value in known["end"]["outcome"].items()}) if known["end"] else Outcome(
                exit.decision, UNKNOWN, "it was begun before and is not reconciled yet", REJECTED)
        try:
            if why:
                raise Refusal(why)
            self._allow(exit)
        except Refusal as refusal:
            return self.end(Work(exit), REFUSED, str(refusal), None)
        work = self.busy[exit.identifier] = Work(exit)
        try:
            yield from self._run(work)
            raise AssertionError("an action ends by an End")
        except End as end:
            return self.end(work, end.state, end.reason, end.view)
        finally:
            del self.busy[exit.identifier]

    def _allow(self, exit: Exit) -> None:
        """Raise Refusal for what needs no look at the broker to be refused."""
        limits = self.limits
        check_exit(exit)
        self._allow_send(exit)
        if exit.symbol not in limits.symbols or exit.symbol not in self.instruments:
            raise Refusal(f"symbol {exit.symbol} is not among those allowed")
        if exit.identifier in self.busy:
            raise Refusal(f"another action on position {exit.identifier} is under way")
        if self.recovery.holds(exit.identifier):
            raise Refusal(f"an earlier request for position {exit.identifier} is not reconciled yet")
        if self.doubt_left_s(exit.identifier):
            raise Refusal(f"an earlier request for position {exit.identifier} is in doubt")
        self._allow_now(exit)

    def _allow_now(self, exit: Exit) -> None:
        """Raise Refusal for a decision too many; others begin until the first request goes out."""
        limits, now_ns = self.limits, self.clock.now_ns()
        if self.ending:
            raise Refusal("the run ends")
        if self.journal.since(now_ns, MINUTE_NS) >= limits.actions_per_minute:
            raise Refusal(f"the limit of {limits.actions_per_minute} actions a minute is reached")
        if self.journal.since(now_ns, DAY_NS) >= limits.actions_per_day:
            raise Refusal(f"the limit of {limits.actions_per_day} actions a day is reached")

    def _allow_send(self, exit: Exit) -> None:
        """Raise Refusal for what may not be sent now; asked before every request, and again once it is on disk."""
        if self.limits.kill_file is not None and self.limits.kill_file.exists():
            raise Refusal(f"the kill switch is on ({self.limits.kill_file})")
        age_s = 0.0 if exit.decided_ns == MISSING else (self.clock.now_ns() - exit.decided_ns) / 1e9
        if age_s > self.limits.max_decision_age_s:
            raise Refusal(f"the decision is {age_s:.0f} s old, {self.limits.max_decision_age_s:g} s are allowed")
        if age_s < -AHEAD_S:
            raise Refusal(f"the decision is {-age_s:.0f} s ahead of this machine's clock; set that one right")
        if why := self.may_send(exit):
            raise Refusal(why)

    def _look(self, work: Work) -> Generator[float, None, View]:
        """Return a look that may be acted on; end the action when there is none."""
        exit, reason, state = work.exit, "", FAILED if work.sends else REFUSED
        for _ in range(LOOKS):
            try:
                view = self.reader.look(exit.identifier, exit.symbol)
            except Unreadable as unreadable:
                reason = str(unreadable)
                if unreadable.fatal:
                    break
                yield LOOK_AGAIN_S
                continue
            work.keep(view)
            age_s = self.ages.age_s(exit.symbol, view.tick, view.at_ns)
            if view.position is None:
                reason = f"position {exit.identifier} is not there"
                if work.met.get("absent") and view.deals:
                    raise End(DONE if work.sends else REFUSED, f"{reason}: closed already", view)
                work.met["absent"] = 1
            elif not view.trading:
                raise End(state, "Algo Trading, or the Python API, is switched off in the terminal", view)
            elif turned(view, exit):
                raise End(state, f"position {exit.identifier} is on the other side", view)
            elif view.orders:
                reason = f"another order for position {exit.identifier} is alive"
            elif age_s is None or age_s > self.limits.max_quote_age_s:
                reason = f"the quote is {'of unknown age' if age_s is None else f'{age_s:.1f} s old'}"
            elif (spread_bps := (view.tick["ask"] - view.tick["bid"]) / view.tick["bid"] * 1e4) > self.limits.max_spread_bps:
                reason = f"the spread is {spread_bps:.1f} bps"
            else:
                return view
            yield LOOK_AGAIN_S
        raise End(state, reason)

    def _plan(self, work: Work, view: View) -> Plan:
        """Return the next request; end the action when there is nothing to do or it cannot be done."""
        exit, instrument, state = work.exit, self.instruments[work.exit.symbol], FAILED if work.sends else REFUSED
        try:
            if exit.action == TIGHTEN:
                return plan_stop(exit, view.position, view.spec, view.tick, instrument)
            modes = fillings(view.spec)
            if work.filling >= len(modes):
                raise Refusal(f"{exit.symbol} takes none of the filling modes")
            keep = keep_lots(exit, instrument)
            plan = plan_deal(exit, view.position, view.spec, view.tick, keep, self.limits, modes[work.filling], token(exit.decision))
            share = (view.position["volume"] - keep) / (work.first or view).position["volume"]
            if share > self.limits.max_share + 1e-9:
                raise Refusal(f"{share:.0%} of the position would be closed, {self.limits.max_share:.0%} is allowed in one action")
            return plan
        except Refusal as refusal:
            raise End(state, str(refusal), view) from None

    def _run(self, work: Work) -> Generator[float, None, None]:
        """Look, plan, send, judge the answer, and again; it ends by raising End."""
        begun_s = self.clock.monotonic_s()
        while self.clock.monotonic_s() - begun_s < self.limits.give_up_s:
            view = yield from self._look(work)
            if work.first and work.exit.action == PARTIAL and view.position["volume"] <= keep_lots(
                    work.exit, self.instruments[work.exit.symbol]) + 1e-9:
                raise End(DONE, "", view)
            if frozen(view.position, view.spec, view.tick):
                yield from self._again(work, Code("FROZEN", "wait", FREEZE_WAITS, FREEZE_WAIT_S, "the price is inside the freeze level"))
                continue
            plan = self._plan(work, view)
            try:
                self._allow_send(work.exit)
                if work.first is None:
                    self._allow_now(work.exit)
            except Refusal as refusal:
                raise End(FAILED if work.sends else REFUSED, str(refusal), view) from None
            self._begin(work, view, plan)
            code, reply = self._send(work, view, plan)
            yield from self._judge(work, view, plan, code, reply)
        raise End(FAILED, f"not done within {self.limits.give_up_s:.0f} s; {work.reason}".rstrip("; "))

    def _begin(self, work: Work, view: View, plan: Plan) -> None:
        """Write the decision down before the first request, and each request before it goes out; `_send` waits for the disk."""
        now_ns, position = self.clock.now_ns(), view.position
        if work.first is None:
            work.first = view
            self.journal.write(BEGIN, work.exit.decision, now_ns, sync=False, exit=vars(work.exit) | {},
                               account=masked(view.login), netting=view.netting,
                               position={key: position[key] for key in ("ticket", "identifier", "volume", "sl", "tp", "type")},
                               deals=[row["ticket"] for row in view.deals], orders=[row["ticket"] for row in view.past_orders],
                               keep_lots=plan.keep_lots, stop=plan.stop, server_msc=view.tick["time_msc"])
        work.sends += 1
        self.journal.write(ATTEMPT, work.exit.decision, now_ns, sync=False, intent=f"{work.exit.decision}/{work.sends}",
                           request=plan.request, volume=position["volume"], stop=plan.stop)

    def _send(self, work: Work, view: View, plan: Plan) -> tuple[Code, dict]:
        """Send one request that is on disk here and at the worker; return the class of the answer, and the answer."""
        message = {"call": "order_send", "intent": f"{work.exit.decision}/{work.sends}", "request": plan.request,
                   "login": view.login, "keep": plan.keep_lots}
        begun_s, on_disk, sent = self.clock.monotonic_s(), self.journal.sync_meanwhile(), False
        try:
            try:
                reply = self.link.ask({**message, "call": "order_ready"})
            finally:
                on_disk()
            took_s = self.clock.monotonic_s() - begun_s
            if reply["ok"]:
                self._allow_send(work.exit)
                if took_s > SLOW_DISK_S:       # what was looked at is old: prices, spread and volume are others by now
                    work.reason = f"the disk took {took_s:.1f} s to note an order"
                    return Code("SLOW DISK", FRESH, 2, 0.0, work.reason), {}
                sent = True
                reply = self.link.ask(message)
        except Refusal as refusal:
            work.sends -= 1                    # this one never went out
            raise End(FAILED if work.sends else REFUSED, str(refusal), view) from None
        except LinkLost as lost:
            work.reason = str(lost)
            self.link.restart()
            return NO_ANSWER if sent else Code("NOT SENT", FRESH, 2, 0.2, work.reason), {}
        if not reply["ok"]:
            work.reason = f"the worker refused: {reply['refused']}"
            return Code("REFUSED", FRESH, 2, 0.2, work.reason), {}
        result, error = reply["result"], reply["error"]
        if result is None and error[0] in BROKEN:
            self.link.restart()
        retcode = result["retcode"] if result else None
        code = classify(retcode, error[0])
        work.retcodes.append(retcode if result else error[0])
        work.reason = f"{work.retcodes[-1]} {code.name}: {code.mend or error[1]}"
        return code, result or {}

    def _again(self, work: Work, code: Code) -> Generator[float, None, None]:
        """Wait as the answer asks for and go on, unless it was met too often."""
        work.met[code.name] = work.met.get(code.name, 0) + 1
        if work.met[code.name] > code.most:
            raise End(FAILED if work.sends else REFUSED, work.reason or code.mend)
        yield code.wait_s

    def _judge(self, work: Work, view: View, plan: Plan, code: Code, reply: dict) -> Generator[float, None, None]:
        """Do what the class of an answer asks for; returning means to look and plan again."""
        if code.kind == STOP:
            raise End(FAILED, work.reason)
        if code.kind == NEXT_FILLING:
            work.filling += 1
        if code.kind not in (OK, PART, FOLLOW, ASK, GONE):
            yield from self._again(work, code)
            return
        found, seen, known = None, None, before(view)
        for step in settle(self.reader, work.exit, plan, known, self.limits):
            if isinstance(step, tuple):
                found, seen = step
            else:
                yield step
        work.keep(seen)
        if found == REACHED:
            check_side(work.exit, seen)
            if code.kind in (ASK, FOLLOW) and not ours(seen, work.exit, known, plan):
                self.doubt(work.exit.identifier, self.limits.doubt_s)
            raise End(DONE, "" if code.kind == OK else work.reason, seen)
        in_doubt, resend = code.kind in (ASK, GONE), plan.request["action"] == SLTP or not view.netting
        if found in (CHANGED, DEAD) and (resend or not in_doubt):
            yield from self._again(work, Code(code.name, code.kind, max(code.most, 5), code.wait_s))
            return
        if found == NOTHING and in_doubt and resend and work.resends < self.limits.resends:
            work.resends += 1
            return
        self.doubt(work.exit.identifier, self.limits.doubt_s)
        shown = {NOTHING: "the position shows nothing of it", UNCLEAR: "the broker could not be read since"}
        raise End(UNKNOWN, f"{work.reason}; {shown.get(found, 'it was done in part, or not at all')}, its broker-side stop stays", seen)

    def doubt(self, identifier: int, seconds: float) -> None:
        """Leave a position alone for so long; the end that follows writes it down."""
        self.doubt_until_s[identifier] = self.clock.monotonic_s() + seconds

    def doubt_left_s(self, identifier: int) -> float:
        """Return for how long a position is left alone from now."""
        now_s = self.clock.monotonic_s()
        return max(self.doubt_until_s.get(identifier, now_s) - now_s, 0.0)

    def end(self, work: Work, state: str, reason: str, view: View | None) -> Outcome:
        """Write the end down and return it."""
        outcome = book_outcome(work.exit, state, reason, work.first, view or work.last, self.limits.magic, token(work.exit.decision))
        outcome.sends, outcome.retcodes, outcome.at_ns = work.sends, work.retcodes, self.clock.now_ns()
        if work.first is not None:
            self.journal.write(END, work.exit.decision, outcome.at_ns, outcome=outcome.as_dict(),
                               doubt_s=self.doubt_left_s(work.exit.identifier))
        elif self.journal.known(work.exit.decision) is None:
            self.journal.write(REFUSAL, work.exit.decision, outcome.at_ns, outcome=outcome.as_dict())
        if state in (FAILED, UNKNOWN):
            self.alarm(f"{work.exit.decision}, position {work.exit.identifier}: {state}: {reason}")
        return outcome

    def recover(self) -> list[Outcome]:
        """Find out what became of every decision that was begun and not ended, sending nothing; return how each ended that is known now."""
        done: list[Outcome] = []
        for wait_s in self.recovery.steps(done):
            self.clock.sleep_s(wait_s)
        return done

    def resume(self) -> None:
        """Begin to find out the same between other actions, unless that is under way; `poll` brings it on."""
        if self.recovery.left and not self.recovery.running and not self.ending:
            self.count += 1
            heapq.heappush(self.queue, (self.clock.now_ns(), self.count, self.recovery.steps([])))


def token(decision: str) -> str:
    """Return the short comment that marks the orders of a decision."""
    return "tg" + hashlib.sha256(decision.encode()).hexdigest()[:10]
