"""The functions of the MetaTrader5 module over a simulated terminal: argument rules first, then the pipe, then the answer."""

import fnmatch
import types
from datetime import datetime

from engine.gateway import surface
from engine.gateway.terminal_books import BUY
from engine.gateway.terminal_helpers import helpers
from engine.gateway.terminal_history import FRAME_S, bars, tick_rows

BUILD = (500, 5120, "04 Sep 2026")
INVALID, COUNT, NAMED = "Invalid arguments", "Invalid number of arguments", "Unnamed arguments not allowed"


def build_module(terminal) -> types.ModuleType:
    """Return a module object with the names of MetaTrader5 and nothing else public."""
    module = types.ModuleType("MetaTrader5", "Simulated terminal with the surface of MetaTrader5.")
    module.__dict__.update(surface.CONSTANTS, __version__=surface.VERSION, __author__="simulated")
    functions = _connection(terminal) | _symbols(terminal) | _copies(terminal) | _trading(terminal) | _history(terminal)
    module.__dict__.update(functions | helpers(functions))
    return module


def _text(value: object, most: int = surface.MAX_TEXT_UNITS) -> bool:
    return isinstance(value, str) and surface.units(value) <= most


def _number(value: object) -> bool:
    return isinstance(value, (int, float))


def _seconds(value: object) -> int | None:
    """Return a date argument as the module stores it: whole seconds in 32 bits; None when it is no date."""
    if isinstance(value, datetime):
        value = value.timestamp()
    if not _number(value):
        return None
    return (int(value) + 2**31) % 2**32 - 2**31


def _in_group(name: str, group: str) -> bool:
    """Tell whether a name is in a group such as "*USD*,!*JPY*"."""
    inside = False
    for pattern in group.split(","):
        pattern = pattern.strip()
        if pattern.startswith("!"):
            inside = inside and not fnmatch.fnmatchcase(name, pattern[1:])
        else:
            inside = inside or fnmatch.fnmatchcase(name, pattern)
    return inside


def _connection(terminal) -> dict:
    def initialize(*args, **kwargs):
        known = {"path", "login", "password", "server", "timeout", "portable"}
        if len(args) > 1 or set(kwargs) - known or args and "path" in kwargs:
            return terminal.refuse(INVALID, False)
        path = args[0] if args else kwargs.get("path", "")
        if not _text(path, surface.MAX_PATH_UNITS):
            return terminal.refuse('Invalid "path" argument', False)
        for name in ("login", "timeout"):
            if name in kwargs and not isinstance(kwargs[name], int):
                return terminal.refuse(f'Invalid "{name}" argument', False)
        for name in ("password", "server"):
            if name in kwargs and not _text(kwargs[name], surface.MAX_SERVER_UNITS):
                return terminal.refuse(f'Invalid "{name}" argument', False)
        return terminal.connect(kwargs.get("login"), kwargs.get("password"))

    def login(*args, **kwargs):
        names = ("login", "password", "server")
        given = dict(zip(names, args)) | kwargs
        if len(args) > 3 or set(given) - {*names, "timeout"} or set(names[:len(args)]) & set(kwargs):
            return terminal.refuse(INVALID, False)
        if not isinstance(given.get("login"), int):
            return terminal.refuse('Invalid "login" argument', False)
        for name in ("password", "server"):
            if name in given and not _text(given[name], surface.MAX_SERVER_UNITS):
                return terminal.refuse(f'Invalid "{name}" argument', False)
        if not terminal.pipe_open:
            terminal.error = -10004, surface.ERROR_TEXTS[-10004]
            return False
        return terminal.connect(given["login"], given.get("password"))

    def shutdown():
        terminal.pipe_open = False
        terminal.error = 1, "Success"
        return True

    def version():
        return terminal.call("version", lambda fault: BUILD, (0, 0, ""))

    def last_error():
        return terminal.error

    def account_info():
        return terminal.call("account_info", lambda fault: _account(terminal))

    def terminal_info():
        server = terminal.server
        return terminal.call("terminal_info", lambda fault: surface.make(
            "TerminalInfo", connected=server.connected, trade_allowed=server.algo_on, tradeapi_disabled=terminal.api_disabled,
            dlls_allowed=True, build=BUILD[1], maxbars=100_000, ping_last=30_000, company="Simulated", name="Simulated terminal",
            language="English", path="simulated", data_path="simulated", commondata_path="simulated"))
    return _named(initialize, login, shutdown, version, last_error, account_info, terminal_info)


def _named(*functions) -> dict:
    return {function.__name__: function for function in functions}


def _account(terminal):
    book = terminal.book
    equity, margin = book.equity(), book.margin()
    return surface.make("AccountInfo", login=book.login, trade_mode=0, leverage=book.leverage, limit_orders=200, trade_allowed=True,
                        trade_expert=terminal.server.expert_allowed, margin_mode=book.mode, currency_digits=2, balance=book.balance,
                        profit=round(equity - book.balance, 2), equity=equity, margin=margin, margin_free=round(equity - margin, 2),
                        margin_level=round(equity / margin * 100, 2) if margin else 0.0, margin_so_call=100.0,
                        margin_so_so=book.stop_out_level, name="Demo", server="Simulated-Demo", currency="USD", company="Simulated")


def _symbol(terminal, name: str):
    book = terminal.book
    spec = book.specs[name]
    rows = book.ticks[name]
    utc_ns, bid, ask = rows[-1] if rows else (0, 0, 0)
    tick_size = round(spec.tick_points / spec.scale, spec.digits)
    tick_value = tick_size * spec.contract_size
    return surface.make(
        "SymbolInfo", select=True, visible=True, time=book.server.server_msc(utc_ns) // 1000 if utc_ns else 0, digits=spec.digits,
        spread=ask - bid, spread_float=True, trade_calc_mode=2, trade_mode=spec.trade_mode, trade_stops_level=spec.stops_level,
        trade_freeze_level=spec.freeze_level, trade_exemode=spec.exemode, filling_mode=spec.filling_mode, order_mode=127,
        expiration_mode=15, bid=spec.price(bid), ask=spec.price(ask), point=1 / spec.scale, trade_tick_value=tick_value,
        trade_tick_value_profit=tick_value, trade_tick_value_loss=tick_value, trade_tick_size=tick_size,
        trade_contract_size=spec.contract_size, volume_min=spec.volume_min, volume_max=spec.volume_max, volume_step=spec.volume_step,
        currency_base=spec.currency_base, currency_profit=spec.currency_profit, currency_margin=spec.currency_profit,
        description=spec.description, name=name, path=f"CFD\\{name}")


def _symbols(terminal) -> dict:
    def not_found(name: str):
        if name not in terminal.book.specs:
            raise surface.Broken(-4)

    def symbols_total():
        return terminal.call("symbols_total", lambda fault: len(terminal.book.specs))

    def symbols_get(*args, **kwargs):
        if len(args) > 1 or set(kwargs) - {"group"} or args and kwargs:
            return terminal.refuse(INVALID, False)
        group = args[0] if args else kwargs.get("group", "*")
        if not _text(group, surface.MAX_GROUP_UNITS):
            return terminal.refuse('Invalid "group" argument', False)
        return terminal.call("symbols_get", lambda fault: tuple(_symbol(terminal, n) for n in terminal.book.specs if _in_group(n, group)))

    def one(call, do, failed=None):
        def named(*args):
            if len(args) != 1:
                return terminal.refuse(COUNT)
            if not _text(args[0]):
                return terminal.refuse(INVALID)

            def run(fault):
                not_found(args[0])
                return do(args[0])
            return terminal.call(call, run, failed)
        named.__name__ = call
        return named

    def tick(name):
        spec, rows = terminal.book.specs[name], terminal.book.ticks[name]
        if not rows:
            return surface.make("Tick")
        msc = terminal.book.server.server_msc(rows[-1][0])
        return surface.make("Tick", time=msc // 1000, bid=spec.price(rows[-1][1]), ask=spec.price(rows[-1][2]), time_msc=msc, flags=6)

    def symbol_select(*args):
        if len(args) not in (1, 2):
            return terminal.refuse(COUNT, False)
        if not _text(args[0]) or len(args) == 2 and not isinstance(args[1], int):
            return terminal.refuse(INVALID, False)

        def run(fault):
            not_found(args[0])
            return True
        return terminal.call("symbol_select", run, False)

    def depth(name):
        spec, quote = terminal.book.specs[name], terminal.book.quote(name)
        rows = [] if quote is None else [(1, quote[1]), (2, quote[0])]
        return tuple(surface.make("BookInfo", type=side, price=spec.price(points), volume=1, volume_dbl=1.0) for side, points in rows)
    return _named(symbols_total, symbols_get, symbol_select, one("symbol_info", lambda name: _symbol(terminal, name)),
                  one("symbol_info_tick", tick), one("market_book_add", lambda name: True, False),
                  one("market_book_release", lambda name: True, False), one("market_book_get", depth))


def _copies(terminal) -> dict:
    def rows(symbol):
        if symbol not in terminal.book.specs:
            raise surface.Broken(-4)
        return [(terminal.book.server.server_msc(ns), bid, ask) for ns, bid, ask in terminal.book.ticks[symbol]]

    def take(call, kinds, do):
        def copy(*args):
            if len(args) != len(kinds) or not all(good(value) for good, value in zip(kinds, args)):
                terminal.error = -2, INVALID
                raise SystemError(f"<built-in function {call}> returned a result with an exception set")
            return terminal.call(call, lambda fault: do(*args))
        copy.__name__ = call
        return copy

    def symbol(value):
        return _text(value)

    def whole(value):
        return isinstance(value, int)

    def frame(value):
        return isinstance(value, int) and value in FRAME_S

    def date(value):
        return _seconds(value) is not None

    def made(symbol, frame):
        return bars(rows(symbol), terminal.book.specs[symbol], frame)

    def rates_from(symbol, frame, when, count):
        found = made(symbol, frame)
        return found[found["time"] <= _seconds(when)][-count:] if count > 0 else found[:0]

    def rates_pos(symbol, frame, start, count):
        found = made(symbol, frame)
        return found[max(len(found) - start - count, 0):max(len(found) - start, 0)]

    def rates_range(symbol, frame, begin, end):
        found = made(symbol, frame)
        return found[(found["time"] >= _seconds(begin)) & (found["time"] <= _seconds(end))]

    def ticks(symbol, begin, end, flags, count=None):
        kept = [row for row in rows(symbol) if row[0] >= _seconds(begin) * 1000 and (end is None or row[0] <= _seconds(end) * 1000)]
        return tick_rows(kept[:count], terminal.book.specs[symbol], flags)
    return _named(take("copy_rates_from", (symbol, frame, date, whole), rates_from),
                  take("copy_rates_from_pos", (symbol, frame, whole, whole), rates_pos),
                  take("copy_rates_range", (symbol, frame, date, date), rates_range),
                  take("copy_ticks_from", (symbol, date, whole, whole), lambda s, d, n, flags: ticks(s, d, None, flags, n)),
                  take("copy_ticks_range", (symbol, date, date, whole), lambda s, a, b, flags: ticks(s, a, b, flags)))


def _filled(request: dict) -> dict:
    """Return a request with every field; unknown keys are dropped, missing ones 0, 0.0 or ""."""
    return {field: request.get(field, {"f": 0.0, "s": ""}.get(kind, 0)) for field, kind in surface.FIELDS["TradeRequest"]}


def _trading(terminal) -> dict:
    def taken(args, kwargs):
        """Return the request, or None after a refusal."""
        if len(args) > 1 or args and kwargs or args and not isinstance(args[0], dict) or not args and not kwargs:
            return terminal.refuse(INVALID)
        given = args[0] if args else kwargs
        wrong = surface.request_fault(given)
        return terminal.refuse(f'Invalid "{wrong}" argument') if wrong else _filled(given)

    def order_send(*args, **kwargs):
        request = taken(args, kwargs)
        if request is None:
            return None

        def run(fault):
            answer = terminal.order_send(request, fault)
            return surface.make("OrderSendResult", request_id=terminal.requests, request=surface.make("TradeRequest", **request), **answer)
        return terminal.call("order_send", run)

    def order_check(*args, **kwargs):
        request = taken(args, kwargs)
        if request is None:
            return None

        def run(fault):
            code, book = terminal.server.check(request), terminal.book
            return surface.make("OrderCheckResult", retcode=code, balance=book.balance, equity=book.equity(), margin=book.margin(),
                                margin_free=round(book.equity() - book.margin(), 2), comment="Done" if code == 0 else "",
                                request=surface.make("TradeRequest", **request))
        return terminal.call("order_check", run)

    def computed(call, count, do):
        def calc(*args):
            good = len(args) == count and isinstance(args[0], int) and _text(args[1]) and all(_number(x) for x in args[2:])
            if not good:
                terminal.error = -2, INVALID
                raise SystemError(f"<built-in function {call}> returned a result with an exception set")

            def run(fault):
                if args[1] not in terminal.book.specs:
                    raise surface.Broken(-4)
                return do(terminal.book.specs[args[1]], *args)
            return terminal.call(call, run)
        calc.__name__ = call
        return calc

    def margin(spec, side, name, volume, price):
        return round(volume * price * spec.contract_size / terminal.book.leverage, 2)

    def profit(spec, side, name, volume, begin, end):
        return round((end - begin) * (1 if side == BUY else -1) * volume * spec.contract_size, 2)
    return _named(order_send, order_check, computed("order_calc_margin", 4, margin), computed("order_calc_profit", 5, profit))


def _history(terminal) -> dict:
    def current(call, rows, record, key):
        def get(*args, **kwargs):
            if args:
                return terminal.refuse(NAMED)
            for name in ("symbol", "group", "ticket"):
                limit = surface.MAX_GROUP_UNITS if name == "group" else surface.MAX_TEXT_UNITS
                good = isinstance(kwargs.get(name), int) if name == "ticket" else _text(kwargs.get(name), limit)
                if name in kwargs and not good:
                    return terminal.refuse(f'Invalid "{name}" argument')

            def run(fault):
                found = list(rows()) if terminal.server.connected else []
                if "ticket" in kwargs:
                    found = [row for row in found if row.ticket == kwargs["ticket"]]
                elif "symbol" in kwargs:
                    found = [row for row in found if row.symbol == kwargs["symbol"]]
                elif "group" in kwargs:
                    found = [row for row in found if _in_group(row.symbol, kwargs["group"])]
                return tuple(record(row) for row in found)
            return terminal.call(call, run)
        get.__name__ = call
        return get

    def past(call, rows, record, stamp, total=False):
        def get(*args, **kwargs):
            keys = set(kwargs)
            dated = len(args) == 2 and keys <= {"group"} and not (total and keys)
            if not dated and not (not args and keys in ({"ticket"}, {"position"}) and not total):
                return terminal.refuse(INVALID)
            bounds = [_seconds(value) for value in args]
            if None in bounds or any(name in kwargs and not isinstance(kwargs[name], int) for name in ("ticket", "position")):
                return terminal.refuse(INVALID)

            def run(fault):
                seen_msc = terminal.book.msc() - terminal.server.deal_lag_ms
                found = [row for row in rows().values() if stamp(row) <= seen_msc]
                if args:
                    found = [row for row in found if bounds[0] <= stamp(row) // 1000 <= bounds[1]]
                    found = [row for row in found if "group" not in kwargs or _in_group(row.symbol, kwargs["group"])]
                elif "ticket" in kwargs:
                    found = [row for row in found if row.ticket == kwargs["ticket"]]
                else:
                    found = [row for row in found if row.position_id == kwargs["position"]]
                return len(found) if total else tuple(record(row) for row in found)
            return terminal.call(call, run)
        get.__name__ = call
        return get

    def positions():
        return terminal.book.positions.values()

    def orders():
        return [order for order in terminal.book.orders.values() if order.visible_ns <= terminal.clock.now_ns()]

    def totals(call, rows):
        def total():
            return terminal.call(call, lambda fault: len(list(rows())) if terminal.server.connected else 0)
        total.__name__ = call
        return total
    past_orders, deals = (lambda: terminal.book.past_orders), (lambda: terminal.book.deals)
    by_done, by_time = (lambda row: row.done_msc), (lambda row: row.time_msc)
    return _named(
        current("positions_get", positions, terminal.position_record, "positions"), totals("positions_total", positions),
        current("orders_get", orders, terminal.order_record, "orders"), totals("orders_total", orders),
        past("history_orders_get", past_orders, terminal.order_record, by_done),
        past("history_orders_total", past_orders, terminal.order_record, by_done, True),
        past("history_deals_get", deals, terminal.deal_record, by_time),
        past("history_deals_total", deals, terminal.deal_record, by_time, True))
