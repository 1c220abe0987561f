"""The books of a simulated broker: quotes, positions, orders and deals of one account, hedging or netting.

Prices are whole points, volumes whole hundred-millionths of a lot, times server milliseconds.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.gateway.server_clock import ServerClock

LOT = 100_000_000
BUY, SELL = 0, 1
NETTING, HEDGING = 0, 2
IN, OUT, INOUT = 0, 1, 2
CLIENT, EXPERT, BY_STOP, BY_TAKE, BY_STOP_OUT = 0, 3, 4, 5, 6
PLACED, CANCELED, PARTIALLY, FILLED, REJECTED = 1, 2, 3, 4, 5
MS = 1_000_000
KEPT_TICKS = 50_000


@dataclass
class Spec:
    """What the terminal knows of one symbol."""

    name: str
    digits: int = 2
    tick_points: int = 1
    contract_size: float = 1.0
    volume_min: float = 0.01
    volume_max: float = 100.0
    volume_step: float = 0.01
    stops_level: int = 0
    freeze_level: int = 0
    exemode: int = 2
    filling_mode: int = 3
    trade_mode: int = 4
    commission_per_lot: float = 0.0
    currency_base: str = "BTC"
    currency_profit: str = "USD"
    description: str = ""

    @property
    def scale(self) -> int:
        """Points in one unit of price."""
        return 10 ** self.digits

    def points(self, price: float) -> int:
        """Return a price as whole points."""
        return round(price * self.scale)

    def price(self, points: float) -> float:
        """Return points as a price."""
        return round(points / self.scale, self.digits)


@dataclass
class Position:
    """One open position."""

    ticket: int
    identifier: int
    symbol: str
    type: int
    volume: int
    open_points: float
    time_msc: int
    sl: int = 0
    tp: int = 0
    magic: int = 0
    reason: int = CLIENT
    comment: str = ""
    update_msc: int = 0
    swap: float = 0.0


@dataclass
class Order:
    """One order, working or past."""

    ticket: int
    symbol: str
    type: int
    volume: int
    setup_msc: int
    left: int = 0
    state: int = PLACED
    filling: int = 0
    magic: int = 0
    position_id: int = 0
    reason: int = EXPERT
    points: int = 0
    sl: int = 0
    tp: int = 0
    comment: str = ""
    done_msc: int = 0
    visible_ns: int = 0            # not shown among the orders before


@dataclass
class Deal:
    """One deal."""

    ticket: int
    order: int
    symbol: str
    type: int
    entry: int
    volume: int
    points: int
    position_id: int
    reason: int
    time_msc: int
    magic: int = 0
    commission: float = 0.0
    profit: float = 0.0
    comment: str = ""


@dataclass
class Later:
    """Something the server does at an instant to come: "fill" an order, "end" it, set "levels", or take a request that was on its way."""

    due_ns: int
    kind: str
    ticket: int = 0
    request: dict = field(default_factory=dict)


class Book:
    """One account at the broker: only the server changes it, by quotes and by executing orders."""

    def __init__(self, specs: list[Spec], *, login: int = 5001, mode: int = HEDGING, balance: float = 100_000.0,
                 leverage: int = 100, stop_out_level: float = 50.0, clock: ServerClock | None = None,
                 first_ticket: int = 1000, netting_reverses: bool = True):
        self.specs = {spec.name: spec for spec in specs}
        self.login, self.mode, self.balance, self.leverage = login, mode, balance, leverage
        self.stop_out_level = stop_out_level
        self.netting_reverses = netting_reverses   # an oversized deal aimed at a ticket reverses; False: it is refused
        self.server = clock or ServerClock()
        self.now_ns = 0
        self.next_ticket = first_ticket
        self.positions: dict[int, Position] = {}
        self.orders: dict[int, Order] = {}
        self.past_orders: dict[int, Order] = {}
        self.deals: dict[int, Deal] = {}
        self.ticks: dict[str, deque] = {name: deque(maxlen=KEPT_TICKS) for name in self.specs}
        self.later: list[Later] = []
        self.waiting: list[dict] = []              # positions to open by hand at the first quote of their symbol
        self.on_later: Callable[[Later], None] = lambda later: None
        self.on_deal: Callable[[Deal, Position | None, int], None] | None = None

    def ticket(self) -> int:
        """Return the next number; orders, deals and positions share one row of them."""
        self.next_ticket += 1
        return self.next_ticket

    def msc(self) -> int:
        """Return the server's clock."""
        return self.server.server_msc(self.now_ns)

    def quote(self, symbol: str) -> tuple[int, int] | None:
        """Return bid and ask in points, None before the first quote."""
        rows = self.ticks.get(symbol)
        return rows[-1][1:] if rows else None

    def ticks_since(self, symbol: str, begin_msc: int | None, end_msc: int | None = None) -> list[tuple[int, int, int]]:
        """Return (server msc, bid, ask) from a server time on, oldest first, all kept ones for None."""
        rows, found = self.ticks[symbol], []
        steady = rows and self.server.offset_s(rows[0][0] // 10**9) == self.server.offset_s(rows[-1][0] // 10**9)
        for utc_ns, bid, ask in reversed(rows):
            msc = self.server.server_msc(utc_ns)
            if begin_msc is not None and msc < begin_msc:
                if steady:             # else the server's clock was put back among them, and later rows may be in range again
                    break
            elif end_msc is None or msc <= end_msc:
                found.append((msc, bid, ask))
        return found[::-1]

    def exit_points(self, position: Position) -> int:
        """Return the price at which a position would close now."""
        bid, ask = self.quote(position.symbol)
        return bid if position.type == BUY else ask

    def push(self, utc_ns: int, symbol: str, bid: int, ask: int) -> None:
        """Take one quote: levels are hit, the margin is looked at."""
        self.run_to(utc_ns)
        self.ticks[symbol].append((utc_ns, bid, ask))
        for row in [row for row in self.waiting if row["symbol"] == symbol]:
            self.waiting.remove(row)
            self.by_hand(**row)
        for position in [p for p in self.positions.values() if p.symbol == symbol and (p.sl or p.tp)]:
            self._hit(position)
        if self.positions and self.stop_out_level:
            self._stop_out()

    def run_to(self, now_ns: int) -> None:
        """Do what is due up to an instant, in order of time."""
        while self.later:
            first = min(self.later, key=lambda each: each.due_ns)
            if first.due_ns > now_ns:
                break
            self.later.remove(first)
            self.now_ns = max(self.now_ns, first.due_ns)
            self.on_later(first)
        self.now_ns = max(self.now_ns, now_ns)

    def _hit(self, position: Position) -> None:
        price, sign = self.exit_points(position), 1 if position.type == BUY else -1
        spec = self.specs[position.symbol]
        if position.sl and sign * (price - position.sl) <= 0:
            self.server_close(position, BY_STOP, f"[sl {spec.price(position.sl):.{spec.digits}f}]")
        elif position.tp and sign * (price - position.tp) >= 0:
            self.server_close(position, BY_TAKE, f"[tp {spec.price(position.tp):.{spec.digits}f}]")

    def server_close(self, position: Position, reason: int, comment: str, volume: int = 0) -> None:
        """Close a position, or part of it, at the market without anyone having sent an order."""
        order = Order(self.ticket(), position.symbol, 1 - position.type, volume or position.volume, self.msc(), reason=reason,
                      position_id=position.identifier, comment=comment, magic=position.magic)
        order.left = order.volume
        self.orders[order.ticket] = order
        self.fill(order, order.volume)

    def profit(self, position: Position) -> float:
        """Return the floating profit in account currency."""
        if not self.quote(position.symbol):
            return 0.0
        return self._gain(position, self.exit_points(position), position.volume)

    def _gain(self, position: Position, points: int, volume: int) -> float:
        spec, sign = self.specs[position.symbol], 1 if position.type == BUY else -1
        return round(sign * (points - position.open_points) / spec.scale * volume / LOT * spec.contract_size, 2)

    def margin(self) -> float:
        """Return the margin in use."""
        return round(sum(p.open_points / self.specs[p.symbol].scale * p.volume / LOT * self.specs[p.symbol].contract_size
                         for p in self.positions.values()) / self.leverage, 2)

    def equity(self) -> float:
        """Return balance and floating profit."""
        return round(self.balance + sum(self.profit(p) + p.swap for p in self.positions.values()), 2)

    def _stop_out(self) -> None:
        while self.positions:
            margin, equity = self.margin(), self.equity()
            if not margin or equity / margin * 100 >= self.stop_out_level:
                return
            worst = min(self.positions.values(), key=lambda p: (self.profit(p), p.ticket))
            self.server_close(worst, BY_STOP_OUT, f"[so {equity / margin * 100:.2f}%]")

    def find(self, identifier: int) -> Position | None:
        """Return the open position of an identifier."""
        return next((p for p in self.positions.values() if p.identifier == identifier), None)

    def target(self, order: Order) -> Position | None:
        """Return the position an order acts on, None when it opens one."""
        if self.mode == HEDGING:
            return self.find(order.position_id) if order.position_id else None
        return next((p for p in self.positions.values() if p.symbol == order.symbol), None)

    def may_close(self, order: Order, position: Position | None, volume: int) -> bool:
        """Tell whether an order aimed at a position still meets it, large enough."""
        if position is None or position.identifier != order.position_id or position.type == order.type:
            return False
        return volume <= position.volume or self.mode == NETTING and self.netting_reverses and order.reason == EXPERT

    def fill(self, order: Order, volume: int) -> Deal | None:
        """Execute part of an order at the market; one aimed at a position that is gone dies instead."""
        position = self.target(order)
        if order.position_id and not self.may_close(order, position, volume):
            self.end_order(order, REJECTED)
            return None
        bid, ask = self.quote(order.symbol)
        points = ask if order.type == BUY else bid
        deal = Deal(self.ticket(), order.ticket, order.symbol, order.type, IN, volume, points, order.position_id, order.reason,
                    self.msc(), order.magic, comment=order.comment,
                    commission=-round(self.specs[order.symbol].commission_per_lot * volume / LOT, 2) or 0.0)
        before = position.volume if position else 0
        if position is None:
            position = self._open(order, volume, points)
        elif position.type == order.type:
            position.open_points = (position.open_points * position.volume + points * volume) / (position.volume + volume)
            position.volume += volume
        else:
            self._against(deal, position, volume, points)
        deal.position_id = position.identifier
        position.update_msc = self.msc()
        self.balance = round(self.balance + deal.profit + deal.commission, 2)
        self.deals[deal.ticket] = deal
        order.left -= volume
        order.position_id = position.identifier
        order.points = points
        if order.left <= 0:
            self.end_order(order, FILLED)
        else:
            order.state = PARTIALLY
        if self.on_deal:
            self.on_deal(deal, position, before)
        return deal

    def _open(self, order: Order, volume: int, points: int) -> Position:
        position = Position(order.ticket, order.ticket, order.symbol, order.type, volume, float(points), self.msc(), order.sl,
                            order.tp, order.magic, order.reason, order.comment)
        self.positions[position.ticket] = position
        return position

    def _against(self, deal: Deal, position: Position, volume: int, points: int) -> None:
        """Reduce, close or, on a netting account, reverse."""
        closed = min(volume, position.volume)
        deal.entry, deal.profit = OUT, self._gain(position, points, closed)
        position.volume -= closed
        if volume > closed:
            deal.entry = INOUT
            position.type, position.volume, position.open_points = deal.type, volume - closed, float(points)
            position.sl = position.tp = 0
            del self.positions[position.ticket]
            position.ticket = deal.order
            self.positions[position.ticket] = position
        elif position.volume == 0:
            del self.positions[position.ticket]

    def end_order(self, order: Order, state: int) -> None:
        """Move an order to the past."""
        order.state, order.done_msc = state, self.msc()
        self.orders.pop(order.ticket, None)
        self.past_orders[order.ticket] = order

    def working(self, position_id: int) -> list[Order]:
        """Return the orders aimed at a position that are not done."""
        return [order for order in self.orders.values() if order.position_id == position_id]

    def by_hand(self, symbol: str, side: int, lots: float, *, position_id: int = 0, sl: float = 0.0, tp: float = 0.0,
                sl_bps: float = 0.0, tp_bps: float = 0.0, magic: int = 0, comment: str = "") -> Position | None:
        """Trade as the user does in the terminal, levels as prices or so far from the entry; return the position made or changed."""
        spec = self.specs[symbol]
        sign, entry = (1, self.quote(symbol)[1]) if side == BUY else (-1, self.quote(symbol)[0])

        def level(price: float, bps: float) -> int:
            points = entry * (1 + bps / 1e4) / spec.tick_points
            return spec.points(price) if price or not bps else round(points) * spec.tick_points
        order = Order(self.ticket(), symbol, side, round(lots * LOT), self.msc(), reason=CLIENT, position_id=position_id, magic=magic,
                      sl=level(sl, -sign * sl_bps), tp=level(tp, sign * tp_bps), comment=comment)
        order.left = order.volume
        self.orders[order.ticket] = order
        deal = self.fill(order, order.volume)
        return self.find(deal.position_id) if deal else None
