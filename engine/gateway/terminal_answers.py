"""What a simulated terminal answers to each call of the module, once its arguments are in order and the pipe is open."""

import fnmatch
from collections.abc import Callable, Iterable

from engine.gateway import surface
from engine.gateway.terminal_books import BUY, LOT, Deal, Order, Position
from engine.gateway.terminal_history import bars, tick_rows

BUILD = (500, 5120, "04 Sep 2026")


def in_group(name: str, group: str) -> bool:
    """Tell whether a name is in a group such as "*USD*,!*JPY*"."""
    inside = False
    for pattern in group.split(","):
        pattern = pattern.strip()
        if pattern.startswith("!"):
            inside = inside and not fnmatch.fnmatchcase(name, pattern[1:])
        else:
            inside = inside or fnmatch.fnmatchcase(name, pattern)
    return inside


def _spec(terminal, name: str):
    if name not in terminal.book.specs:
        raise surface.Broken(-4)
    return terminal.book.specs[name]


def _terminal_info(terminal):
    server = terminal.server
    return surface.make(
        "TerminalInfo", connected=server.connected, trade_allowed=server.algo_on, tradeapi_disabled=terminal.api_disabled,
        dlls_allowed=True, build=BUILD[1], maxbars=100_000, ping_last=30_000, company="Simulated", name="Simulated terminal",
        language="English", path="simulated", data_path="simulated", commondata_path="simulated")


def _account_info(terminal):
    book = terminal.book
    equity, margin = book.equity(), book.margin()
    return surface.make("AccountInfo", login=book.login, trade_mode=0, leverage=book.leverage, limit_orders=200, trade_allowed=True,
                        trade_expert=terminal.server.expert_allowed, margin_mode=book.mode, currency_digits=2, balance=book.balance,
                        profit=round(equity - book.balance, 2), equity=equity, margin=margin, margin_free=round(equity - margin, 2),
                        margin_level=round(equity / margin * 100, 2) if margin else 0.0, margin_so_call=100.0,
                        margin_so_so=book.stop_out_level, name="Demo", server="Simulated-Demo", currency="USD", company="Simulated")


def _symbol_info(terminal, name: str):
    book, spec = terminal.book, _spec(terminal, name)
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


def _symbols_get(terminal, group: str):
    return tuple(_symbol_info(terminal, name) for name in terminal.book.specs if in_group(name, group))


def _symbol_info_tick(terminal, name: str):
    spec, rows = _spec(terminal, name), terminal.book.ticks[name]
    if not rows:
        return surface.make("Tick")
    utc_ns, bid, ask = rows[-1]
    msc = terminal.book.server.server_msc(utc_ns)
    return surface.make("Tick", time=msc // 1000, bid=spec.price(bid), ask=spec.price(ask), time_msc=msc, flags=6)


def _found(terminal, name: str):
    return _spec(terminal, name) is not None


def _market_book_get(terminal, name: str):
    spec, quote = _spec(terminal, name), terminal.book.quote(name)
    rows = [] if quote is None else [(1, quote[1]), (2, quote[0])]
    return tuple(surface.make("BookInfo", type=side, price=spec.price(points), volume=1, volume_dbl=1.0) for side, points in rows)


def _ticks(terminal, symbol: str, begin_s: int, end_s: int | None, count: int | None, flags: int):
    spec, book = _spec(terminal, symbol), terminal.book
    return tick_rows(book.ticks_since(symbol, begin_s * 1000, None if end_s is None else end_s * 1000)[:count], spec, flags)


def _bars(terminal, symbol: str, frame: int):
    spec = _spec(terminal, symbol)
    return bars(terminal.book.ticks_since(symbol, None), spec, frame)


def _rates_from(terminal, symbol: str, frame: int, when_s: int, count: int):
    found = _bars(terminal, symbol, frame)
    return found[found["time"] <= when_s][-count:] if count > 0 else found[:0]


def _rates_from_pos(terminal, symbol: str, frame: int, start: int, count: int):
    found = _bars(terminal, symbol, frame)
    return found[max(len(found) - start - count, 0):max(len(found) - start, 0)]


def _rates_range(terminal, symbol: str, frame: int, begin_s: int, end_s: int):
    found = _bars(terminal, symbol, frame)
    return found[(found["time"] >= begin_s) & (found["time"] <= end_s)]


def _order_send(terminal, request: dict, fault: dict):
    answer = terminal.order_send(request, fault)
    return surface.make("OrderSendResult", request_id=terminal.requests, request=surface.make("TradeRequest", **request), **answer)


def _order_check(terminal, request: dict):
    code, book = terminal.server.check(request), terminal.book
    equity, margin = book.equity(), book.margin()
    return surface.make("OrderCheckResult", retcode=code, balance=book.balance, equity=equity, margin=margin,
                        margin_free=round(equity - margin, 2), comment="Done" if code == 0 else "",
                        request=surface.make("TradeRequest", **request))


def _margin(terminal, side: int, name: str, volume: float, price: float):
    return round(volume * price * _spec(terminal, name).contract_size / terminal.book.leverage, 2)


def _profit(terminal, side: int, name: str, volume: float, begin: float, end: float):
    return round((end - begin) * (1 if side == BUY else -1) * volume * _spec(terminal, name).contract_size, 2)


def _positions(terminal):
    return list(terminal.book.positions.values()) if terminal.server.connected else []


def _orders(terminal):
    now_ns = terminal.clock.now_ns()
    return [order for order in terminal.book.orders.values() if order.visible_ns <= now_ns] if terminal.server.connected else []


def _current(rows: Callable, record: Callable) -> Callable:
    def get(terminal, key: str = "", value: object = None):
        found = rows(terminal)
        if key == "group":
            found = [row for row in found if in_group(row.symbol, value)]
        elif key:
            found = [row for row in found if getattr(row, key) == value]
        return tuple(record(terminal, row) for row in found)
    return get


def _past(rows: str, stamp: str) -> Callable:
    """Return what finds past rows by server seconds and group, or by ticket, or by position."""
    def find(terminal, key: str, first: object, second: object = None, group: str | None = None) -> Iterable:
        seen_msc = terminal.book.msc() - terminal.server.deal_lag_ms
        found = [row for row in getattr(terminal.book, rows).values() if getattr(row, stamp) <= seen_msc]
        if key != "dates":
            return [row for row in found if getattr(row, key) == first]
        return [row for row in found if first <= getattr(row, stamp) // 1000 <= second and (group is None or in_group(row.symbol, group))]
    return find


def _order(terminal, order: Order):
    spec = terminal.book.specs[order.symbol]
    bid, ask = terminal.book.quote(order.symbol)
    return surface.make("TradeOrder", ticket=order.ticket, time_setup=order.setup_msc // 1000, time_setup_msc=order.setup_msc,
                        time_done=order.done_msc // 1000, time_done_msc=order.done_msc, type=order.type, type_filling=order.filling,
                        state=order.state, magic=order.magic, position_id=order.position_id, reason=order.reason,
                        volume_initial=order.volume / LOT, volume_current=order.left / LOT, price_open=spec.price(order.points),
                        sl=spec.price(order.sl), tp=spec.price(order.tp), price_current=spec.price(ask if order.type == BUY else bid),
                        symbol=order.symbol, comment=order.comment)


def _deal(terminal, deal: Deal):
    return surface.make("TradeDeal", ticket=deal.ticket, order=deal.order, time=deal.time_msc // 1000, time_msc=deal.time_msc,
                        type=deal.type, entry=deal.entry, magic=deal.magic, position_id=deal.position_id, reason=deal.reason,
                        volume=deal.volume / LOT, price=terminal.book.specs[deal.symbol].price(deal.points), commission=deal.commission,
                        profit=deal.profit, symbol=deal.symbol, comment=deal.comment)


def _position(terminal, position: Position):
    spec, book = terminal.book.specs[position.symbol], terminal.book
    return surface.make("TradePosition", ticket=position.ticket, time=position.time_msc // 1000, time_msc=position.time_msc,
                        time_update=position.update_msc // 1000, time_update_msc=position.update_msc, type=position.type,
                        magic=position.magic, identifier=position.identifier, reason=position.reason, volume=position.volume / LOT,
                        price_open=spec.price(position.open_points), sl=spec.price(position.sl), tp=spec.price(position.tp),
                        price_current=spec.price(book.exit_points(position)) if book.quote(position.symbol) else 0.0,
                        swap=position.swap, profit=book.profit(position), symbol=position.symbol, comment=position.comment)


_done_orders, _deals = _past("past_orders", "done_msc"), _past("deals", "time_msc")
# by the name of the call; each takes the terminal and the arguments as the module's side has put them in order
ANSWERS: dict[str, Callable] = {
    "login": lambda terminal, login, password: terminal.log_in(login, password) or True,
    "version": lambda terminal: BUILD, "account_info": _account_info, "terminal_info": _terminal_info,
    "symbols_total": lambda terminal: len(terminal.book.specs), "symbols_get": _symbols_get, "symbol_select": _found,
    "symbol_info": _symbol_info, "symbol_info_tick": _symbol_info_tick, "market_book_add": _found, "market_book_release": _found,
    "market_book_get": _market_book_get, "copy_rates_from": _rates_from, "copy_rates_from_pos": _rates_from_pos,
    "copy_rates_range": _rates_range, "order_send": _order_send, "order_check": _order_check, "order_calc_margin": _margin,
    "order_calc_profit": _profit,
    "copy_ticks_from": lambda terminal, symbol, begin_s, count, flags: _ticks(terminal, symbol, begin_s, None, count, flags),
    "copy_ticks_range": lambda terminal, symbol, begin_s, end_s, flags: _ticks(terminal, symbol, begin_s, end_s, None, flags),
    "positions_get": _current(_positions, _position), "positions_total": lambda terminal: len(_positions(terminal)),
    "orders_get": _current(_orders, _order), "orders_total": lambda terminal: len(_orders(terminal)),
    "history_orders_get": lambda terminal, *asked: tuple(_order(terminal, row) for row in _done_orders(terminal, *asked)),
    "history_orders_total": lambda terminal, *asked: len(_done_orders(terminal, *asked)),
    "history_deals_get": lambda terminal, *asked: tuple(_deal(terminal, row) for row in _deals(terminal, *asked)),
    "history_deals_total": lambda terminal, *asked: len(_deals(terminal, *asked)),
}
