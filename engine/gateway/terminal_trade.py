"""What the simulated server answers to a trade request: its checks in order, then the execution, or the fault of this call."""

import math
from collections.abc import Callable

from engine.gateway.terminal_books import (
    BUY,
    HEDGING,
    LOT,
    MS,
    NETTING,
    PLACED,
    REJECTED,
    Book,
    Later,
    Order,
    Position,
    Spec,
)
from engine.gateway.terminal_faults import Faults

DEAL, PENDING, SLTP, MODIFY, REMOVE, CLOSE_BY = 1, 5, 6, 7, 8, 10
DONE, DONE_PARTIAL, TEXTS = 10009, 10010, {
    10004: "Requote", 10006: "Request rejected", 10007: "Request canceled", 10008: "Request placed", 10009: "Request executed",
    10010: "Request executed partially", 10011: "Request processing error", 10012: "Request timed out", 10013: "Invalid request",
    10014: "Invalid volume", 10015: "Invalid price", 10016: "Invalid stops", 10017: "Trade disabled", 10018: "Market closed",
    10019: "No money", 10020: "Price changed", 10021: "No prices", 10024: "Too many requests", 10025: "No changes",
    10026: "AutoTrading disabled by server", 10027: "AutoTrading disabled by client", 10028: "Request locked",
    10029: "Order or position frozen", 10030: "Unsupported filling mode", 10031: "No connection", 10035: "Invalid order",
    10036: "Position closed", 10038: "Invalid close volume", 10039: "Close order already exists", 10044: "Only position closing is allowed",
}
FOK, IOC, RETURN = 0, 1, 2
MARKET, EXCHANGE = 2, 3
EPSILON = 2                     # hundred-millionths of a lot


class TradeServer:
    """Checks and executes requests against a book."""

    def __init__(self, book: Book, faults: Faults, *, closed_code: int = 10036, rewrite_comment: str | None = None,
                 deal_lag_ms: int = 0):
        self.book, self.faults = book, faults
        self.closed_code = closed_code             # answer for a position that is gone: brokers differ
        self.rewrite_comment = rewrite_comment
        self.deal_lag_ms = deal_lag_ms             # history shows a deal this much later than the positions show its effect
        self.connected = self.algo_on = True
        self.expert_allowed = True
        self.closed_symbols: set[str] = set()
        self.on_levels: Callable[[Position, tuple[int, int]], None] | None = None
        book.on_later = self.due

    def check(self, request: dict) -> int:
        """Return the code a request is refused with, 0 when it would be executed."""
        if not self.algo_on:
            return 10027
        if not self.connected:
            return 10031
        if not self.expert_allowed:
            return 10026
        if not all(math.isfinite(value) for value in request.values() if isinstance(value, float)):
            return 10013
        spec = self.book.specs.get(request["symbol"])
        if request["action"] == REMOVE:
            return 0 if request["order"] in self.book.orders else 10035
        if spec is None:
            return 10013
        if request["action"] == DEAL:
            return self._check_deal(request, spec)
        if request["action"] == SLTP:
            return self._check_levels(request, spec)
        return 10013

    def _market(self, spec: Spec, opens: bool) -> int:
        if spec.trade_mode == 0:
            return 10017
        if spec.name in self.closed_symbols:
            return 10018
        if self.book.quote(spec.name) is None:
            return 10021
        return 10044 if opens and spec.trade_mode == 3 else 0

    def _check_deal(self, request: dict, spec: Spec) -> int:
        book = self.book
        position = book.positions.get(request["position"]) if request["position"] else None
        against = position or (None if book.mode == HEDGING else next((p for p in book.positions.values() if p.symbol == spec.name), None))
        refused = self._market(spec, against is None or against.type == request["type"])
        if refused:
            return refused
        if request["type"] not in (0, 1):
            return 10013
        volume = round(request["volume"] * LOT)
        step = round(spec.volume_step * LOT)
        if volume < round(spec.volume_min * LOT) or volume > round(spec.volume_max * LOT) or volume % step > EPSILON:
            return 10014
        if request["position"] and position is None:
            return self.closed_code
        if position and (position.symbol != spec.name or position.type == request["type"]):
            return 10013
        if position and volume > position.volume and (book.mode == HEDGING or not book.netting_reverses):
            return 10038
        if not self._filling_fits(request["type_filling"], spec):
            return 10030
        if position and self._frozen(position, spec):
            return 10029
        if position and book.working(position.identifier):
            return 10039
        return self._check_price(request, spec) or self._check_money(request, spec, volume, against)

    def _filling_fits(self, filling: int, spec: Spec) -> bool:
        if filling not in (FOK, IOC, RETURN):
            return False
        if spec.exemode < MARKET or filling == RETURN and spec.exemode == EXCHANGE:
            return True
        return filling != RETURN and bool(spec.filling_mode & (1, 2)[filling])

    def _check_price(self, request: dict, spec: Spec) -> int:
        if spec.exemode >= MARKET:
            return 0
        bid, ask = self.book.quote(spec.name)
        now = ask if request["type"] == BUY else bid
        if request["price"] <= 0:
            return 10015
        return 10004 if abs(spec.points(request["price"]) - now) > request["deviation"] else 0

    def _check_money(self, request: dict, spec: Spec, volume: int, against: Position | None) -> int:
        if against is not None and against.type != request["type"]:
            return 0
        bid, ask = self.book.quote(spec.name)
        needed = (ask if request["type"] == BUY else bid) / spec.scale * volume / LOT * spec.contract_size / self.book.leverage
        return 10019 if needed > self.book.equity() - self.book.margin() else 0

    def _frozen(self, position: Position, spec: Spec) -> bool:
        price = self.book.exit_points(position)
        return spec.freeze_level > 0 and any(level and abs(price - level) <= spec.freeze_level for level in (position.sl, position.tp))

    def _check_levels(self, request: dict, spec: Spec) -> int:
        refused = self._market(spec, False)
        if refused:
            return refused
        position = self.book.positions.get(request["position"])
        if position is None and self.book.mode == NETTING and not request["position"]:
            position = next((p for p in self.book.positions.values() if p.symbol == spec.name), None)
        if position is None:
            return self.closed_code
        if position.symbol != spec.name:
            return 10013
        sl, tp = spec.points(request["sl"]), spec.points(request["tp"])
        if (sl, tp) == (position.sl, position.tp):
            return 10025
        if self._frozen(position, spec):
            return 10029
        if sl % spec.tick_points or tp % spec.tick_points:
            return 10016
        price, sign = self.book.exit_points(position), 1 if position.type == BUY else -1
        least = max(spec.stops_level, 1)
        if sl and sign * (price - sl) < least or tp and sign * (tp - price) < least:
            return 10016
        return 0

    def execute(self, request: dict, fault: dict) -> dict:
        """Return the fields of the answer; what the fault says happens, the rest as on a good day."""
        kind = fault.get("do", "")
        code = self.check(request)
        if code:
            return self.answer(request, code)
        if kind == "retcode":
            return self.answer(request, fault["code"])
        if kind == "unknown":
            if fault.get("executed"):
                self._execute_later(request, fault)
            return self.answer(request, fault["code"])
        if request["action"] == SLTP:
            return self._set_levels(request)
        if request["action"] == REMOVE:
            self.book.end_order(self.book.orders[request["order"]], 2)
            return self.answer(request, DONE, order=request["order"])
        order = self.place(request)
        if kind == "placed":
            self._fill_later(order, fault)
            return self.answer(request, 10008, order=order.ticket)
        volume = order.volume
        if kind == "partial":
            spec = self.book.specs[order.symbol]
            step = round(spec.volume_step * LOT)
            volume = int(order.volume * fault["share"]) // step * step
            left = self.book.find(order.position_id)
            if not step <= volume < order.volume or request["type_filling"] == FOK or left is None:
                volume = order.volume
        deal = self.book.fill(order, volume)
        if deal is None:
            return self.answer(request, self.closed_code, order=order.ticket)
        if order.left:
            self.book.end_order(order, 2)
        return self.answer(request, DONE if volume == order.volume else DONE_PARTIAL, order=order.ticket, deal=deal.ticket,
                           volume=volume / LOT, price=self.book.specs[order.symbol].price(deal.points))

    def place(self, request: dict) -> Order:
        """Enter an order that passed the checks."""
        book, spec = self.book, self.book.specs[request["symbol"]]
        position = book.positions.get(request["position"])
        comment = request["comment"] if self.rewrite_comment is None else self.rewrite_comment
        order = Order(book.ticket(), spec.name, request["type"], round(request["volume"] * LOT), book.msc(),
                      filling=request["type_filling"], magic=request["magic"],
                      position_id=position.identifier if position else 0, state=PLACED,
                      sl=spec.points(request["sl"]), tp=spec.points(request["tp"]), comment=comment)
        order.left = order.volume
        book.orders[order.ticket] = order
        return order

    def _fill_later(self, order: Order, fault: dict) -> None:
        order.visible_ns = self.book.now_ns + fault.get("hidden_ms", 0) * MS
        self._do_later(Later(self.book.now_ns + fault.get("delay_ms", 0) * MS, "end" if fault.get("dies") else "fill", order.ticket))

    def _execute_later(self, request: dict, fault: dict) -> None:
        """Execute a request whose answer says nothing, at once or after a delay."""
        if fault.get("on_way"):
            self._do_later(Later(self.book.now_ns + fault.get("delay_ms", 0) * MS, "arrive", request=request))
        elif request["action"] == DEAL:
            self._fill_later(self.place(request), fault | {"dies": False})
        elif request["action"] == SLTP:
            self._do_later(Later(self.book.now_ns + fault.get("delay_ms", 0) * MS, "levels", request=request))

    def _do_later(self, later: Later) -> None:
        if later.due_ns > self.book.now_ns:
            self.book.later.append(later)
        else:
            self.due(later)

    def due(self, later: Later) -> None:
        """Do what was put off."""
        if later.kind == "arrive":
            self.execute(later.request, {})
            return
        if later.kind == "levels":
            if not self._check_levels(later.request, self.book.specs[later.request["symbol"]]):
                self._set_levels(later.request)
            return
        order = self.book.orders.get(later.ticket)
        if order is not None and (later.kind == "end" or self.book.quote(order.symbol) is None):
            self.book.end_order(order, REJECTED)
        elif order is not None:
            self.book.fill(order, order.left)

    def _set_levels(self, request: dict) -> dict:
        position = self.book.positions[request["position"]]
        spec = self.book.specs[position.symbol]
        before = position.sl, position.tp
        position.sl, position.tp = spec.points(request["sl"]), spec.points(request["tp"])
        position.update_msc = self.book.msc()
        if self.on_levels:
            self.on_levels(position, before)
        return self.answer(request, DONE)

    def answer(self, request: dict, code: int, **fields) -> dict:
        """Return the fields of an OrderSendResult but the request."""
        quote = self.book.quote(request["symbol"])
        spec = self.book.specs.get(request["symbol"])
        bid, ask = (spec.price(points) for points in quote) if quote else (0.0, 0.0)
        return {"retcode": code, "bid": bid, "ask": ask, "comment": TEXTS.get(code, "")} | fields
