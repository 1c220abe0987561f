"""What the broker says now, read in one go through the link: one position with all that a decision about it rests on."""

from collections.abc import Iterator
from dataclasses import dataclass

from engine.gateway.client import LinkLost
from engine.gateway.server_clock import ServerClock
from engine.gateway.symbols import masked

OUT, INOUT, OUT_BY = 1, 2, 3
SUCCESS, NOT_FOUND = 1, -4
BROKEN = (-10000, -10001, -10002, -10003, -10004)


class Unreadable(Exception):
    """The broker cannot be read now; `fatal` when waiting does not mend it."""

    def __init__(self, reason: str, fatal: bool = False):
        super().__init__(reason)
        self.fatal = fatal


@dataclass(frozen=True)
class View:
    """One look: the position is None when it is not there, which may also mean that the link is down."""

    at_ns: int
    login: int
    netting: bool
    trading: bool                  # Algo Trading is on in the terminal
    position: dict | None
    spec: dict
    tick: dict
    orders: list[dict]             # alive, aimed at this position
    deals: list[dict]              # out of this position
    past_orders: list[dict]


class Reader:
    """Reads through a link, and repairs it when a call finds it broken."""

    def __init__(self, link, clock, accounts: frozenset[int]):
        self.link, self.clock, self.accounts = link, clock, accounts

    def call(self, name: str, *args, **kwargs):
        """Return the result of a call; raise Unreadable when there is none."""
        return self._result(name, self._ask({"call": name, "args": list(args), "kwargs": kwargs}))

    def batch(self, *calls: tuple[str, list, dict]) -> Iterator:
        """Yield the results of calls that are made in one go, one after the other; raise Unreadable at the first that has none."""
        reply = self._ask({"call": "batch", "calls": [{"call": name, "args": args, "kwargs": kwargs} for name, args, kwargs in calls]})
        for (name, _, _), each in zip(calls, self._result("batch", reply), strict=False):
            yield self._result(name, each)

    def _ask(self, message: dict) -> dict:
        try:
            return self.link.ask(message)
        except LinkLost as lost:
            self.link.restart()
            raise Unreadable(str(lost)) from None

    def _result(self, name: str, reply: dict):
        result, error = reply.get("result"), reply.get("error", [0, reply.get("refused", "")])
        if result is None or result is False and error[0] not in (SUCCESS, NOT_FOUND):     # a False may be a link that broke
            if error[0] in BROKEN:
                self.link.restart()
            raise Unreadable(f"{name}: {error[1]} ({error[0]})")
        return result

    def look(self, identifier: int, symbol: str) -> View:
        """Read everything about one position; raise Unreadable for a link that is down or an account that is not allowed."""
        found = self.batch(
            ("terminal_info", [], {}), ("account_info", [], {}), ("positions_get", [], {"symbol": symbol}),
            ("orders_get", [], {"symbol": symbol}), ("history_deals_get", [], {"position": identifier}),
            ("history_orders_get", [], {"position": identifier}), ("symbol_info", [symbol], {}), ("symbol_info_tick", [symbol], {}),
            ("account_info", [], {}), ("terminal_info", [], {}))
        terminal, account = next(found), next(found)
        if account["login"] not in self.accounts:
            raise Unreadable(f"account {masked(account['login'])} is logged in, which is not among those allowed", fatal=True)
        if not terminal["connected"]:
            raise Unreadable("the terminal has no link to the broker")
        positions, orders, deals, past, spec, tick, account_after, terminal_after = found
        if account_after["login"] != account["login"] or not terminal_after["connected"]:
            raise Unreadable("the account or the link changed while it was read")
        positions = [row for row in positions if row["identifier"] == identifier]
        orders = [row for row in orders if row["position_id"] == identifier]
        deals = [row for row in deals if row["entry"] in (OUT, INOUT, OUT_BY)]
        return View(self.clock.now_ns(), account["login"], account["margin_mode"] != 2,
                    terminal["trade_allowed"] and not terminal["tradeapi_disabled"], positions[0] if positions else None, spec, tick,
                    orders, deals, past)


class QuoteAges:
    """How old a quote is at most, judged by when a changed one was first seen here, or by the server's clock where it is known."""

    def __init__(self, server: ServerClock | None = None):
        self.server = server
        self.seen: dict[str, tuple[tuple, int, int | None]] = {}

    def age_s(self, symbol: str, tick: dict, now_ns: int) -> float | None:
        """Return the age in seconds, None when it is not known; every look at a tick has to come through here."""
        if tick["time_msc"] <= 0 or tick["bid"] <= 0 or tick["ask"] <= 0:
            return None
        key = (tick["time_msc"], tick["bid"], tick["ask"])
        old_key, looked_ns, since_ns = self.seen.get(symbol, (None, None, None))
        if key != old_key:
            since_ns = looked_ns           # it changed after the last look, at the earliest
        self.seen[symbol] = (key, now_ns, since_ns)
        if self.server is not None:
            return max(now_ns - self.server.utc_ns(tick["time_msc"]), 0) / 1e9
        return None if since_ns is None else (now_ns - since_ns) / 1e9
