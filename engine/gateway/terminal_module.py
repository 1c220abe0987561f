"""The MetaTrader5 module over a session with a simulated terminal: the rules of its arguments, then the call."""

import types
from collections.abc import Callable
from datetime import datetime

from engine.gateway import surface
from engine.gateway.surface import FIELDS, MAX_GROUP_UNITS, MAX_PATH_UNITS, MAX_SERVER_UNITS, MAX_TEXT_UNITS
from engine.gateway.terminal_helpers import helpers
from engine.gateway.terminal_history import FRAME_S
from engine.gateway.terminal_session import Session

INVALID, COUNT, NAMED = "Invalid arguments", "Invalid number of arguments", "Unnamed arguments not allowed"
_CASTS = {"f": float, "s": str, "i": int}


def build_module(session: Session) -> types.ModuleType:
    """Return a module object with the names of MetaTrader5 and nothing else public."""
    module = types.ModuleType("MetaTrader5", "Simulated terminal with the surface of MetaTrader5.")
    module.__dict__.update(surface.CONSTANTS, __version__=surface.VERSION, __author__="simulated")
    functions = {}
    for group in (_connection, _symbols, _copies, _trading, _current, _history):
        functions |= group(session)
    module.__dict__.update(functions | helpers(functions))
    return module


def _text(value: object, most: int = MAX_TEXT_UNITS) -> bool:
    return isinstance(value, str) and surface.units(value) <= most


def _whole(value: object) -> bool:
    return isinstance(value, int)


def _number(value: object) -> bool:
    return isinstance(value, (int, float))


def _seconds(value: object) -> int | None:
    """Return a date argument as the module stores it: whole seconds in 32 bits; None when it is no date."""
    if isinstance(value, datetime):
        value = value.timestamp()
    if not _number(value):
        return None
    return (int(value) + 2**31) % 2**32 - 2**31


def _date(value: object) -> bool:
    return _seconds(value) is not None


def _frame(value: object) -> bool:
    return isinstance(value, int) and value in FRAME_S


def _named(*functions: Callable) -> dict[str, Callable]:
    return {function.__name__: function for function in functions}


def _as(name: str, function: Callable) -> Callable:
    function.__name__ = function.__qualname__ = name
    return function


def _plain(session: Session, name: str, failed: object = None) -> Callable:
    return _as(name, lambda: session.call(name, failed=failed))


def _connection(session: Session) -> dict[str, Callable]:
    def initialize(*args, **kwargs):
        known = {"path", "login", "password", "server", "timeout", "portable"}
        if len(args) > 1 or set(kwargs) - known or args and "path" in kwargs:
            return session.refuse(INVALID, False)
        path = args[0] if args else kwargs.get("path", "")
        if not _text(path, MAX_PATH_UNITS):
            return session.refuse('Invalid "path" argument', False)
        for name in ("login", "timeout"):
            if name in kwargs and not _whole(kwargs[name]):
                return session.refuse(f'Invalid "{name}" argument', False)
        for name in ("password", "server"):
            if name in kwargs and not _text(kwargs[name], MAX_SERVER_UNITS):
                return session.refuse(f'Invalid "{name}" argument', False)
        return session.connect(kwargs.get("login"), kwargs.get("password"))

    def login(*args, **kwargs):
        names = ("login", "password", "server")
        given = dict(zip(names, args)) | kwargs
        if len(args) > 3 or set(given) - {*names, "timeout"} or set(names[:len(args)]) & set(kwargs):
            return session.refuse(INVALID, False)
        if not _whole(given.get("login")):
            return session.refuse('Invalid "login" argument', False)
        for name in ("password", "server"):
            if name in given and not _text(given[name], MAX_SERVER_UNITS):
                return session.refuse(f'Invalid "{name}" argument', False)
        return session.call("login", given["login"], given.get("password"), failed=False)

    def shutdown():
        return session.disconnect()

    def last_error():
        return session.error
    return _named(initialize, login, shutdown, last_error, _plain(session, "version", (0, 0, "")), _plain(session, "account_info"),
                  _plain(session, "terminal_info"))


def _symbols(session: Session) -> dict[str, Callable]:
    def symbols_get(*args, **kwargs):
        if len(args) > 1 or set(kwargs) - {"group"} or args and kwargs:
            return session.refuse(INVALID, False)
        group = args[0] if args else kwargs.get("group", "*")
        if not _text(group, MAX_GROUP_UNITS):
            return session.refuse('Invalid "group" argument', False)
        return session.call("symbols_get", group)

    def one(name, failed=None):
        def named(*args):
            if len(args) != 1:
                return session.refuse(COUNT)
            return session.call(name, args[0], failed=failed) if _text(args[0]) else session.refuse(INVALID)
        return _as(name, named)

    def symbol_select(*args):
        if len(args) not in (1, 2):
            return session.refuse(COUNT, False)
        if not _text(args[0]) or len(args) == 2 and not _whole(args[1]):
            return session.refuse(INVALID, False)
        return session.call("symbol_select", args[0], failed=False)
    return _named(_plain(session, "symbols_total"), symbols_get, symbol_select, one("symbol_info"), one("symbol_info_tick"),
                  one("market_book_add", False), one("market_book_release", False), one("market_book_get"))


def _strict(session: Session, name: str, *kinds: Callable) -> Callable:
    """Return a function of positional arguments whose wrong types leave an exception pending, as in the module."""
    def strict(*args):
        if len(args) != len(kinds) or not all(good(value) for good, value in zip(kinds, args)):
            session.refuse(INVALID)
            raise SystemError(f"<built-in function {name}> returned a result with an exception set")
        return session.call(name, *(_seconds(value) if good is _date else value for good, value in zip(kinds, args)))
    return _as(name, strict)


def _copies(session: Session) -> dict[str, Callable]:
    return _named(_strict(session, "copy_rates_from", _text, _frame, _date, _whole),
                  _strict(session, "copy_rates_from_pos", _text, _frame, _whole, _whole),
                  _strict(session, "copy_rates_range", _text, _frame, _date, _date),
                  _strict(session, "copy_ticks_from", _text, _date, _whole, _whole),
                  _strict(session, "copy_ticks_range", _text, _date, _date, _whole))


def _filled(request: dict) -> dict:
    """Return a request with every field; unknown keys are dropped, missing ones 0, 0.0 or ""."""
    return {field: _CASTS[kind](request[field]) if field in request else _CASTS[kind]() for field, kind in FIELDS["TradeRequest"]}


def _trading(session: Session) -> dict[str, Callable]:
    def order(name):
        def named(*args, **kwargs):
            if len(args) > 1 or args and kwargs or args and not isinstance(args[0], dict) or not args and not kwargs:
                return session.refuse(INVALID)
            given = args[0] if args else kwargs
            wrong = surface.request_fault(given)
            return session.refuse(f'Invalid "{wrong}" argument') if wrong else session.call(name, _filled(given))
        return _as(name, named)
    return _named(order("order_send"), order("order_check"), _strict(session, "order_calc_margin", _whole, _text, _number, _number),
                  _strict(session, "order_calc_profit", _whole, _text, _number, _number, _number))


def _current(session: Session) -> dict[str, Callable]:
    rules = {"ticket": _whole, "symbol": _text, "group": lambda value: _text(value, MAX_GROUP_UNITS)}

    def get(name):
        def named(*args, **kwargs):
            if args:
                return session.refuse(NAMED)
            wrong = [key for key in ("symbol", "group", "ticket") if key in kwargs and not rules[key](kwargs[key])]
            if wrong:
                return session.refuse(f'Invalid "{wrong[0]}" argument')
            asked = next(((key, kwargs[key]) for key in rules if key in kwargs), ())
            return session.call(name, *asked)
        return _as(name, named)
    return _named(get("positions_get"), _plain(session, "positions_total"), get("orders_get"), _plain(session, "orders_total"))


def _history(session: Session) -> dict[str, Callable]:
    def past(name, total=False):
        def named(*args, **kwargs):
            if len(args) == 2 and not set(kwargs) - (set() if total else {"group"}):
                bounds = [_seconds(value) for value in args]
                return session.refuse(INVALID) if None in bounds else session.call(name, "dates", *bounds, kwargs.get("group"))
            if args or total or len(kwargs) != 1:
                return session.refuse(INVALID)
            (key, value), = kwargs.items()
            return session.call(name, {"position": "position_id"}.get(key, key), value) \
                if key in ("ticket", "position") and _whole(value) else session.refuse(INVALID)
        return _as(name, named)
    return _named(past("history_orders_get"), past("history_orders_total", True), past("history_deals_get"),
                  past("history_deals_total", True))
