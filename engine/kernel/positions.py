"""Positions change only here, by folding a row: opened and changed by the record, marked by broker quotes, closed by fills."""

import math

from .arbitration import take_refusal
from .compiled import compiled
from .records import (
    CLOSE,
    CLOSED,
    ENTERED,
    ENTERING,
    FREE,
    HOLD,
    HOLD_SET,
    MISSING,
    NO_SLOT,
    OPEN,
    OPENED,
    PARTIAL,
    RECORDED_CLOSE,
    REJECTED,
    RELATIVE,
    RULE_CLOSED,
    RULE_REDUCED,
    STOP_MOVED,
    STOP_SET,
    STOPPED,
    TAKE_SET,
    TAKEN,
    TIMED_OUT,
    VOLUME_SET,
)

_REL_UNIT = 1_000_000          # 1/100 bp


@compiled
def emit(fills, counts, row, v, position, code, price_ticks, volume):
    """Write one outcome row."""
    out = fills[counts[1]]
    counts[1] += 1
    out.seq = row.seq
    out.recv_ns = row.recv_ns
    out.ticket = position.ticket
    out.variant = v
    out.symbol = position.symbol
    out.code = code
    out.rule = position.order_rule
    out.side = position.side
    out.price_ticks = price_ticks
    out.volume = volume
    out.volume_left = position.volume
    out.stop_ticks = position.stop_ticks
    out.entry_ticks = position.entry_ticks
    out.risk_ticks = position.risk_ticks
    out.decided_ns = position.order_decided_ns
    out.peak_ticks = position.peak_ticks
    out.trough_ticks = position.trough_ticks
    out.spread_ticks = position.spread_ticks
    out.exit_ticks = position.exit_ticks
    out.take_ticks = position.take_ticks
    out.initial_stop_ticks = position.initial_stop_ticks
    out.open_ns = position.open_ns
    out.deadline_ns = position.deadline_ns


@compiled
def refuse(row, v, fills, counts):
    """Write the outcome row of a position that finds no slot: nothing but what the record says of it."""
    out = fills[counts[1]]
    counts[1] += 1
    out.seq = row.seq
    out.recv_ns = row.recv_ns
    out.ticket = row.id
    out.variant = v
    out.symbol = row.symbol
    out.code = NO_SLOT
    out.rule = -1
    out.side = row.side
    out.price_ticks = MISSING
    out.volume = 0
    out.volume_left = 0
    out.stop_ticks = MISSING
    out.entry_ticks = MISSING
    out.risk_ticks = MISSING
    out.decided_ns = MISSING
    out.peak_ticks = MISSING
    out.trough_ticks = MISSING
    out.spread_ticks = MISSING
    out.exit_ticks = MISSING
    out.take_ticks = MISSING
    out.initial_stop_ticks = MISSING
    out.open_ns = MISSING
    out.deadline_ns = MISSING


@compiled
def find(positions, active, active_count, v, ticket):
    """Return the place of a ticket in the active list, -1 when it is not there."""
    for i in range(active_count[v]):
        if positions[v, active[v, i]].ticket == ticket:
            return i
    return -1


@compiled
def release(positions, active, active_count, v, i):
    """Free the slot at a place of the active list, keeping the order of the others."""
    positions[v, active[v, i]].status = FREE
    for j in range(i, active_count[v] - 1):
        active[v, j] = active[v, j + 1]
    active_count[v] -= 1


@compiled
def blank(position, row):
    """Make a slot a new position with nothing known but its ticket, side and volume."""
    position.ticket = row.id
    position.side = row.side
    position.symbol = row.symbol
    position.status = OPEN
    position.open_ns = row.recv_ns
    if row.event_ns != MISSING and row.event_ns < row.recv_ns:
        position.open_ns = row.event_ns        # it was open before it was seen
    position.age_ns = 0
    position.entry_ticks = row.price_ticks
    position.volume = row.qty_lots
    position.initial_volume = row.qty_lots
    position.stop_ticks = MISSING
    position.take_ticks = MISSING
    position.initial_stop_ticks = MISSING
    position.risk_ticks = MISSING
    position.exit_ticks = MISSING
    position.spread_ticks = MISSING
    position.quote_ns = MISSING
    position.gain_ticks = 0
    position.peak_ticks = 0
    position.trough_ticks = 0
    position.peak_ns = row.recv_ns
    position.gain_r = math.nan
    position.peak_r = math.nan
    position.gain_bps = math.nan
    position.stop_rel = MISSING
    position.take_rel = MISSING
    position.hold_ns = MISSING
    position.deadline_ns = MISSING
    position.recorded = 0
    position.order = HOLD
    position.order_due_ns = MISSING
    position.order_stop_ticks = MISSING
    position.order_volume = MISSING
    position.order_rule = -1
    position.order_decided_ns = MISSING
    position.acted_ns = MISSING
    position.refused = HOLD
    position.refused_ns = MISSING
    position.voted = 0


@compiled
def open_position(row, v, positions, active, active_count, states, defaults, latches, settings, fills, counts):
    """Give a new position the lowest free slot, its rules their entry state."""
    slots = positions.shape[1]
    if active_count[v] >= slots:
        refuse(row, v, fills, counts)
        return
    k = 0
    while positions[v, k].status != FREE:
        k += 1
    position = positions[v, k]
    blank(position, row)
    if row.price_ticks == MISSING:
        position.status = ENTERING
        position.order_due_ns = row.recv_ns + settings[v].entry_latency_ns
    states[v, k] = defaults[0]
    latches[v, k, :, :] = 0
    active[v, active_count[v]] = k
    active_count[v] += 1


@compiled
def set_stop(position, price_ticks):
    """Set a stop, MISSING for none; the first one fixes the risk that R is measured in."""
    position.stop_ticks = price_ticks
    if price_ticks == MISSING:
        return
    if position.initial_stop_ticks == MISSING and position.entry_ticks != MISSING:
        position.initial_stop_ticks = price_ticks
        risk = position.side * (position.entry_ticks - price_ticks)
        if risk > 0:
            position.risk_ticks = risk


@compiled
def place_levels(position):
    """Turn distances from the entry into levels, each once, as soon as the entry is known."""
    if position.entry_ticks == MISSING:
        return
    if position.stop_rel != MISSING:
        distance = (position.entry_ticks * position.stop_rel + _REL_UNIT // 2) // _REL_UNIT
        set_stop(position, position.entry_ticks - position.side * distance)
        position.stop_rel = MISSING
    if position.take_rel != MISSING:
        distance = (position.entry_ticks * position.take_rel + _REL_UNIT // 2) // _REL_UNIT
        position.take_ticks = position.entry_ticks + position.side * distance
        position.take_rel = MISSING


@compiled
def fold_position(row, positions, active, active_count, states, defaults, latches, settings, fills, counts):
    """Fold one row of the account's record into every variant."""
    for v in range(positions.shape[0]):
        if row.code == OPENED:
            open_position(row, v, positions, active, active_count, states, defaults, latches, settings, fills, counts)
            continue
        i = find(positions, active, active_count, v, row.id)
        if i < 0:
            continue
        position = positions[v, active[v, i]]
        if row.code == STOP_SET:
            if row.bits & RELATIVE:
                position.stop_rel = row.price_ticks
                place_levels(position)
            else:
                set_stop(position, row.price_ticks)
        elif row.code == TAKE_SET:
            if row.bits & RELATIVE:
                position.take_rel = row.price_ticks
                place_levels(position)
            else:
                position.take_ticks = row.price_ticks
        elif row.code == HOLD_SET:
            position.hold_ns = row.qty_lots
            if position.status == OPEN:
                position.deadline_ns = position.open_ns + row.qty_lots
        elif row.code == VOLUME_SET:
            position.volume = row.qty_lots
        elif row.code == CLOSED:
            if position.status == OPEN:
                position.order_rule = -1
                closed = position.volume
                position.volume = 0
                price = position.exit_ticks if row.price_ticks == MISSING else row.price_ticks
                emit(fills, counts, row, v, position, RECORDED_CLOSE, price, closed)
            release(positions, active, active_count, v, i)


@compiled
def enter(row, v, position, bid_ticks, ask_ticks, fills, counts):
    """Fill a waiting entry at the quote: a long at the ask, a short at the bid; its distances become levels."""
    position.entry_ticks = ask_ticks if position.side > 0 else bid_ticks
    position.status = OPEN
    position.open_ns = row.recv_ns
    position.peak_ns = row.recv_ns
    if position.stop_ticks != MISSING:
        set_stop(position, position.stop_ticks)
    place_levels(position)
    if position.hold_ns != MISSING:
        position.deadline_ns = position.open_ns + position.hold_ns
    position.order_due_ns = MISSING
    mark(row, position, bid_ticks, ask_ticks)
    position.peak_ticks = position.gain_ticks
    position.trough_ticks = position.gain_ticks
    emit(fills, counts, row, v, position, ENTERED, position.entry_ticks, position.volume)


@compiled
def mark(row, position, bid_ticks, ask_ticks):
    """Value a position at the price it could be left at: a long at the bid, a short at the ask."""
    position.exit_ticks = bid_ticks if position.side > 0 else ask_ticks
    position.spread_ticks = ask_ticks - bid_ticks
    position.quote_ns = row.recv_ns
    gain = position.side * (position.exit_ticks - position.entry_ticks)
    position.gain_ticks = gain
    position.gain_bps = gain * 10_000.0 / position.entry_ticks
    if gain > position.peak_ticks:
        position.peak_ticks = gain
        position.peak_ns = row.recv_ns
    if gain < position.trough_ticks:
        position.trough_ticks = gain
    if position.risk_ticks != MISSING:
        position.gain_r = gain / position.risk_ticks
        position.peak_r = position.peak_ticks / position.risk_ticks


@compiled
def leave(row, v, positions, active, active_count, i, code, price_ticks, fills, counts):
    """Close a position whole at a price."""
    position = positions[v, active[v, i]]
    volume = position.volume
    position.volume = 0
    emit(fills, counts, row, v, position, code, price_ticks, volume)
    release(positions, active, active_count, v, i)


@compiled
def broker_exit(row, position):
    """Return what the broker itself would do at this quote: stop, take profit or time limit, else 0."""
    if position.stop_ticks != MISSING and position.side * (position.exit_ticks - position.stop_ticks) <= 0:
        return STOPPED
    if position.take_ticks != MISSING and position.side * (position.exit_ticks - position.take_ticks) >= 0:
        return TAKEN
    if position.deadline_ns != MISSING and row.recv_ns >= position.deadline_ns:
        return TIMED_OUT
    return 0


@compiled
def fill_order(row, v, positions, active, active_count, i, settings, fills, counts):
    """Fill the order in flight at this quote; return True when the position is gone."""
    position = positions[v, active[v, i]]
    price = position.exit_ticks - position.side * settings[v].slippage_ticks
    order = position.order
    position.order = HOLD
    position.order_due_ns = MISSING
    if order == CLOSE:
        leave(row, v, positions, active, active_count, i, RULE_CLOSED, price, fills, counts)
        return True
    if order == PARTIAL:
        closed = position.volume - position.order_volume
        if closed > 0:
            position.volume = position.order_volume
            emit(fills, counts, row, v, position, RULE_REDUCED, price, closed)
    elif position.side * (position.exit_ticks - position.order_stop_ticks) <= 0:
        emit(fills, counts, row, v, position, REJECTED, position.order_stop_ticks, 0)
    else:
        position.stop_ticks = position.order_stop_ticks
        emit(fills, counts, row, v, position, STOP_MOVED, position.order_stop_ticks, 0)
    return False


@compiled
def fold_quote(row, market, positions, active, active_count, settings, fills, counts):
    """Mark every position at a new broker quote and make the fills that fall due: the broker's own exits go first."""
    bid, ask = market.quote_bid_ticks, market.quote_ask_ticks
    for v in range(positions.shape[0]):
        i = 0
        while i < active_count[v]:
            position = positions[v, active[v, i]]
            gone = False
            if position.symbol == row.symbol:
                if position.status == ENTERING:
                    if row.recv_ns >= position.order_due_ns:
                        enter(row, v, position, bid, ask, fills, counts)
                else:
                    mark(row, position, bid, ask)
                    if settings[v].simulate:
                        gone = settle(row, v, positions, active, active_count, i, settings, fills, counts)
            if not gone:
                i += 1


@compiled
def settle(row, v, positions, active, active_count, i, settings, fills, counts):
    """Make what is due on one marked position; return True when it is gone.

    A stop fills at the quote that is at or through it, so a gap is paid; a take profit fills at its level, never better.
    """
    position = positions[v, active[v, i]]
    code = broker_exit(row, position)
    if code != 0:
        price = position.exit_ticks - position.side * settings[v].slippage_ticks
        if code == TAKEN:
            price = position.take_ticks
        leave(row, v, positions, active, active_count, i, code, price, fills, counts)
        return True
    if position.order != HOLD and row.recv_ns >= position.order_due_ns:
        return fill_order(row, v, positions, active, active_count, i, settings, fills, counts)
    return False


@compiled
def fold_outcome(row, positions, active, active_count, latches, fills, counts):
    """Fold the answer to an order that was really sent; price, volume left and code come from the record."""
    i = find(positions, active, active_count, 0, row.id)
    if i < 0:
        return
    k = active[0, i]
    position = positions[0, k]
    short = row.code == RULE_REDUCED and (position.order == CLOSE or (position.order == PARTIAL and row.qty_lots > position.order_volume))
    if row.code == REJECTED or short:
        take_refusal(row, position, latches, k)
    else:
        position.refused = HOLD
    position.order = HOLD
    position.order_due_ns = MISSING
    if row.code == RULE_CLOSED or row.code == STOPPED or row.code == TAKEN:
        leave(row, 0, positions, active, active_count, i, row.code, row.price_ticks, fills, counts)
        return
    closed = 0
    if row.code == RULE_REDUCED:
        closed = position.volume - row.qty_lots
        position.volume = row.qty_lots
    elif row.code == STOP_MOVED:
        position.stop_ticks = row.price_ticks
    emit(fills, counts, row, 0, position, row.code, row.price_ticks, closed)
