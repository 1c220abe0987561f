"""What an earlier process began and did not end: found out after a restart by looking alone; until then the position is left alone."""

from collections.abc import Generator
from typing import TYPE_CHECKING

from engine.gateway.intents import BEGIN, IntentJournal
from engine.gateway.orders import DONE, FAILED, UNKNOWN, Exit, Outcome, Plan
from engine.gateway.outcomes import End, Work, check_side
from engine.gateway.reconcile import NOTHING, REACHED, UNCLEAR, before, ours, reached, settle
from engine.gateway.symbols import masked
from engine.gateway.view import Unreadable, View

if TYPE_CHECKING:
    from engine.gateway.mt5 import Gateway

TRIES, AGAIN_S = 8, 0.25


def first_look(entry: dict) -> View:
    """Return what was known before the first request."""
    return View(entry["at_ns"], 0, entry["netting"], True, entry["position"], {}, {}, [],
                [{"ticket": ticket} for ticket in entry["deals"]], [{"ticket": ticket} for ticket in entry["orders"]])


def last_plan(entry: dict) -> Plan:
    """Return the last request that was sent, with what fulfils the decision."""
    last = entry["attempts"][-1]
    return Plan(last["request"], entry["keep_lots"], last["stop"])


def doubts(journal: IntentJournal, clock) -> dict[int, float]:
    """Return until when, by the monotonic clock, each position is left alone, as the ends say."""
    now_ns, now_s = clock.now_ns(), clock.monotonic_s()
    ends = [(entry["exit"]["identifier"], entry["end"]) for entry in journal.decisions.values() if entry["what"] == BEGIN and entry["end"]]
    # of a clock that was put back meanwhile: no longer than it was to be
    return {identifier: now_s + end.get("doubt_s", 0.0) - max(now_ns - end["at_ns"], 0) / 1e9 for identifier, end in ends}


class Recovery:
    """The decisions that are left of an earlier process on accounts that may be acted on."""

    def __init__(self, gateway: "Gateway"):
        self.gateway = gateway
        own = {masked(account) for account in gateway.limits.accounts}
        self.left = {entry["decision"]: entry for entry in gateway.journal.unfinished() if entry["account"] in own}
        self.running = False
        self._alarmed: set[str] = set()

    def holds(self, identifier: int) -> bool:
        """Tell whether it is not known yet what became of a request for this position."""
        return any(entry["exit"]["identifier"] == identifier for entry in self.left.values())

    def steps(self, done: list[Outcome]) -> Generator[float, None, None]:
        """Yield seconds to wait; put into `done` how each decision ended, and leave open what cannot be found out now."""
        self.running = True
        try:
            for decision, entry in list(self.left.items()):
                try:
                    account = yield from self._account()
                except Unreadable as unreadable:       # the others are not waited for as well
                    self._alarm(entry, str(unreadable))
                    return
                if account != entry["account"]:
                    continue
                try:
                    done.append((yield from self._one(entry)))
                    del self.left[decision]
                except Unreadable as unreadable:
                    self._alarm(entry, str(unreadable))
                    if self.gateway.ending:
                        return
        finally:
            self.running = False

    def _account(self) -> Generator[float, None, str]:
        """Return the masked account that is logged in; raise Unreadable where the broker is not reached soon."""
        reader = self.gateway.reader
        for _ in range(TRIES):
            try:
                login = reader.call("account_info")["login"]
                if login in reader.accounts and reader.call("terminal_info")["connected"]:
                    return masked(login)
                reason = "another account is logged in, or the terminal has no link to the broker"
            except Unreadable as unreadable:
                reason = str(unreadable)
            yield AGAIN_S
        raise Unreadable(reason)

    def _one(self, entry: dict) -> Generator[float, None, Outcome]:
        """Return how one decision ended; raise Unreadable where that is not to be seen."""
        work = Work(Exit(**entry["exit"]), sends=len(entry["attempts"]), first=first_look(entry))
        try:
            yield from self._look(work, entry)
        except End as end:
            return self.gateway.end(work, end.state, end.reason, end.view)

    def _look(self, work: Work, entry: dict) -> Generator[float, None, None]:
        if not work.sends:
            raise End(FAILED, "ended before anything was sent")
        plan = last_plan(entry)
        known = before(work.first, entry["attempts"][-1]["volume"])
        for step in settle(self.gateway.reader, work.exit, plan, known, self.gateway.limits):
            if not isinstance(step, tuple):
                yield step
                continue
            found, seen = step
            if found == UNCLEAR and (seen is None or seen.position is None or seen.orders):
                raise Unreadable("the broker could not be read, or shows no deal that closed it")
            if found != REACHED or not ours(seen, work.exit, known, plan):     # the last request may come to execute yet
                self.gateway.doubt(work.exit.identifier, self.gateway.limits.doubt_s)
            if found == UNCLEAR:
                # it is there, nothing is under way, and its deals do not add up: later decisions rest on fresh readings
                raise End(UNKNOWN, "the deals and the position do not agree on what was sent before a restart", seen)
            if found == NOTHING:
                raise End(FAILED, "the position shows nothing of what was sent before a restart", seen)
            check_side(work.exit, seen)
            if found == REACHED or seen.position is not None and reached(seen, work.exit, plan):
                raise End(DONE, "found after a restart", seen)
            raise End(FAILED, "done in part, or refused, before a restart", seen)

    def _alarm(self, entry: dict, reason: str) -> None:
        if entry["decision"] not in self._alarmed:
            self._alarmed.add(entry["decision"])
            name = f"{entry['decision']}, position {entry['exit']['identifier']}"
            self.gateway.alarm(f"{name}: what became of it is not known yet: {reason}; nothing is sent for this position until it is")
