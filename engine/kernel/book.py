"""The price ladder: put a level, follow the venue's numbered sequence rules, link a snapshot to the diffs around it."""

from .compiled import compiled
from .records import (
    BOOK_BROKEN,
    BOOK_SYNCED,
    FIRST,
    LAST,
    LEVELS,
    MISSING,
    PARTIAL_DEPTH,
    PENDING,
)


@compiled
def clear(ladder, levels, s, b, centre_ticks):
    """Empty one ladder and put its window around a price."""
    levels[s, b, :, :] = 0
    ladder.origin_ticks = centre_ticks - LEVELS // 2
    ladder.bid_ticks = MISSING
    ladder.ask_ticks = MISSING
    ladder.n_bids = 0
    ladder.n_asks = 0
    ladder.cover_low = MISSING
    ladder.cover_high = MISSING
    ladder.last_id = MISSING
    ladder.chained = 0


@compiled
def put(ladder, levels, s, b, side, price_ticks, qty_lots):
    """Set the quantity resting at one price; 0 removes it; a price outside the window stays unknown."""
    slot = price_ticks - ladder.origin_ticks
    if slot < 0 or slot >= LEVELS:
        return
    if side > 0:
        before = levels[s, b, 0, slot]
        levels[s, b, 0, slot] = qty_lots
        if qty_lots > 0:
            if before == 0:
                ladder.n_bids += 1
                if ladder.n_bids == 1 or price_ticks > ladder.bid_ticks:
                    ladder.bid_ticks = price_ticks
        elif before > 0:
            ladder.n_bids -= 1
            if price_ticks == ladder.bid_ticks:
                if ladder.n_bids == 0:
                    ladder.bid_ticks = MISSING
                else:
                    slot -= 1
                    while levels[s, b, 0, slot] == 0:
                        slot -= 1
                    ladder.bid_ticks = ladder.origin_ticks + slot
    else:
        before = levels[s, b, 1, slot]
        levels[s, b, 1, slot] = qty_lots
        if qty_lots > 0:
            if before == 0:
                ladder.n_asks += 1
                if ladder.n_asks == 1 or price_ticks < ladder.ask_ticks:
                    ladder.ask_ticks = price_ticks
        elif before > 0:
            ladder.n_asks -= 1
            if price_ticks == ladder.ask_ticks:
                if ladder.n_asks == 0:
                    ladder.ask_ticks = MISSING
                else:
                    slot += 1
                    while levels[s, b, 1, slot] == 0:
                        slot += 1
                    ladder.ask_ticks = ladder.origin_ticks + slot


@compiled
def recentre(ladder, levels, s, b):
    """Move the window back around the touch when price has come within a quarter of its edge."""
    if ladder.n_bids == 0 or ladder.n_asks == 0:
        return
    slot = (ladder.bid_ticks + ladder.ask_ticks) // 2 - ladder.origin_ticks
    if LEVELS // 4 <= slot < LEVELS - LEVELS // 4:
        return
    shift = slot - LEVELS // 2
    # what this window did not hold is unknown, even where the next one shows it
    if ladder.cover_low != MISSING:
        ladder.cover_low = max(ladder.cover_low, ladder.origin_ticks)
    if ladder.cover_high != MISSING:
        ladder.cover_high = min(ladder.cover_high, ladder.origin_ticks + LEVELS - 1)
    for side in range(2):
        count = 0
        for step in range(LEVELS):
            to = step if shift > 0 else LEVELS - 1 - step      # the order in which nothing is overwritten before it is read
            lots = 0
            if 0 <= to + shift < LEVELS:
                lots = levels[s, b, side, to + shift]
            levels[s, b, side, to] = lots
            if lots > 0:
                count += 1
        if side == 0:
            ladder.n_bids = count
        else:
            ladder.n_asks = count
    ladder.origin_ticks += shift


@compiled
def is_crossed(ladder):
    """Tell whether the best bid is at or above the best ask."""
    return ladder.n_bids > 0 and ladder.n_asks > 0 and ladder.bid_ticks >= ladder.ask_ticks


@compiled
def continues(strict_chain, chained, prev_id, last_id):
    """Tell whether a diff may follow `last_id` with nothing missing between.

    USD-M step 5: every later event has pu == the u before; step 4 and 6, the first after a snapshot: pu <= L.
    Spot step 5 and 4: U <= id + 1, that is U - 1 <= id.
    """
    if prev_id == MISSING or last_id == MISSING:
        return True
    if strict_chain and chained:
        return prev_id == last_id
    return prev_id <= last_id


@compiled
def begin_diff(row, core, ladder, strict_chain):
    """Decide at its first row whether a diff applies, is old, or proves a hole."""
    core.frame_applies = 0
    if core.book_status != BOOK_SYNCED:
        return
    # USD-M step 3, spot step 3 and 5: what the book already holds is dropped. u == L changes nothing that L did not hold.
    if row.id != MISSING and ladder.last_id != MISSING and row.id <= ladder.last_id:
        core.book_old += 1
        if row.id == ladder.last_id:
            ladder.chained = 1
    elif continues(strict_chain, ladder.chained, row.prev_id, ladder.last_id):
        core.frame_applies = 1
    else:
        core.book_status = BOOK_BROKEN
        core.book_gaps += 1


@compiled
def fold_diff(row, core, ladders, levels, pending, strict_chain):
    """Fold one row of a depth diff; return True when a whole frame has been applied."""
    if row.bits & PARTIAL_DEPTH:
        return False
    s = row.symbol
    kept = pending[s, core.pending_rows & (PENDING - 1)]
    kept.price_ticks = row.price_ticks
    kept.qty_lots = row.qty_lots
    kept.id = row.id
    kept.prev_id = row.prev_id
    kept.side = row.side
    kept.bits = row.bits
    core.pending_rows += 1
    ladder = ladders[s, core.active]
    if row.bits & FIRST:
        begin_diff(row, core, ladder, strict_chain)
    if core.frame_applies == 0:
        return False
    if row.price_ticks != MISSING:
        put(ladder, levels, s, core.active, row.side, row.price_ticks, row.qty_lots)
    if row.bits & LAST == 0:
        return False
    ladder.last_id = row.id
    ladder.chained = 1
    core.frame_applies = 0
    core.book_frames += 1
    if is_crossed(ladder):
        core.book_crossed += 1
        core.book_status = BOOK_BROKEN
        return False
    recentre(ladder, levels, s, core.active)
    return True


@compiled
def link(core, ladder, levels, s, b, pending, strict_chain):
    """Bring a fresh snapshot up to date with the diffs that arrived before it; return False when one is missing."""
    if ladder.last_id == MISSING:
        return not is_crossed(ladder)
    first = max(0, core.pending_rows - PENDING)
    applying = False               # what is left of a frame whose first row is no longer kept is not applied
    for number in range(first, core.pending_rows):
        row = pending[s, number & (PENDING - 1)]
        if row.bits & FIRST:
            applying = row.id != MISSING and row.id > ladder.last_id
            if row.id == ladder.last_id:
                ladder.chained = 1
            if applying and not continues(strict_chain, ladder.chained, row.prev_id, ladder.last_id):
                return False
        if not applying:
            continue
        if row.price_ticks != MISSING:
            put(ladder, levels, s, b, row.side, row.price_ticks, row.qty_lots)
        if row.bits & LAST:
            ladder.last_id = row.id
            ladder.chained = 1
            applying = False
    return not is_crossed(ladder)


@compiled
def fold_snapshot(row, core, ladders, levels, pending, strict_chain):
    """Fold one level of a full snapshot into the idle ladder; swap it in when it is whole and linked; return True then."""
    s = row.symbol
    idle = 1 - core.active
    ladder = ladders[s, idle]
    if row.price_ticks == MISSING:
        return False
    if row.bits & FIRST:
        clear(ladder, levels, s, idle, row.price_ticks)
    put(ladder, levels, s, idle, row.side, row.price_ticks, row.qty_lots)
    if row.side > 0:
        if ladder.cover_low == MISSING or row.price_ticks < ladder.cover_low:
            ladder.cover_low = row.price_ticks
    elif ladder.cover_high == MISSING or row.price_ticks > ladder.cover_high:
        ladder.cover_high = row.price_ticks
    if row.bits & LAST == 0:
        return False
    ladder.last_id = row.id
    if not link(core, ladder, levels, s, idle, pending, strict_chain):
        core.snapshots_refused += 1
        return False
    core.active = idle
    core.book_status = BOOK_SYNCED
    core.frame_applies = 0
    return True
