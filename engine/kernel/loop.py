"""The only event loop: fold the row, and when a frame is whole ask every rule about every position it concerns."""

import numba

from .arbitration import (
    ACTED_ON,
    DONE,
    KEEP,
    LOGGED,
    choose,
    fold_switch,
    is_news,
    note_vote,
    order,
    result_of,
    verdict,
    volume_kept,
    write,
)
from .book import fold_diff, fold_snapshot
from .compiled import compiled
from .depth import lose_book, refresh_depth
from .positions import fold_outcome, fold_position, fold_quote
from .records import (
    ACTED,
    BEST,
    BOOK_BROKEN,
    BOOK_SYNCED,
    CONNECTED,
    DEPTH,
    EVERY_SYMBOL,
    FEED,
    GAP,
    HOLD,
    LAST,
    LOST,
    MISSING,
    NOT_MARKET,
    OPEN,
    OUTCOME,
    POSITION,
    QUOTE,
    RESYNC,
    SNAPSHOT,
    STALE,
    SWITCH,
    TIMER,
    TRADE,
)
from .slow import fold_basis, fold_second, refresh_extremes, refresh_residual, refresh_volatility
from .tape import close_slot, fold_top, fold_trade, refresh_flow, refresh_moves, refresh_slow, usual_sweep
from .votes import ask_rules, write_evidence  # written by the linker

_NS = 1_000_000_000


@compiled
def fold_feed(row, market, core):
    """Make absent what a feed no longer proves; row.id names the stream by its event kind, MISSING means all."""
    stream = row.id
    broken = row.code == LOST or row.code == GAP or row.code == STALE
    whole = row.code == CONNECTED or row.code == RESYNC
    if stream == MISSING or stream == TRADE:
        if broken:
            core.tape_from_ns = MISSING
            market.tape_ok = 0
        if row.code == GAP or (whole and core.tape_from_ns == MISSING):
            core.tape_from_ns = row.recv_ns
            market.cvd_lots = 0
            market.tape_ok = 1
    if (stream == MISSING or stream == DEPTH) and broken:
        core.pending_rows = 0          # no snapshot links over a hole,
        core.top_id = MISSING          # and the venue may have begun its ids anew
        if core.book_status == BOOK_SYNCED:
            core.book_status = BOOK_BROKEN
            core.book_gaps += 1
    if stream == MISSING or stream == BEST:
        if broken:
            core.mid_from_ns = MISSING
            market.mid_ok = 0
            core.top_id = MISSING
    if (stream == MISSING or stream == QUOTE) and broken:
        market.quote_ns = MISSING
        market.basis_ok = 0


@compiled
def hear(row, market, core, constants, windows, slots, slot, s):
    """Fold a feed row and bring everything it may have made absent up to date, so that no rule sees it once more."""
    fold_feed(row, market, core)
    if core.book_status != BOOK_SYNCED:
        lose_book(market)
    refresh_volatility(market, core)
    refresh_moves(market, windows, slots, core, s)
    refresh_flow(market, windows, slot, core, s)
    refresh_slow(market, core, constants, windows, slot, s)
    refresh_extremes(market, core, windows, slots, s)
    refresh_residual(market, core, windows, slots, s)


@compiled
def fold_best(row, market, core, slot, windows, slots):
    """Fold one side of a best quote; take the touch with the second, unless a newer one is already known by its id."""
    if row.side > 0:
        core.row_bid_ticks = row.price_ticks
        core.row_bid_lots = row.qty_lots
        return
    if row.id != MISSING and core.top_id != MISSING and row.id < core.top_id:
        return
    core.top_id = row.id
    take_top(row, market, core, slot, windows, slots, core.row_bid_ticks, core.row_bid_lots, row.price_ticks, row.qty_lots)


@compiled
def take_top(row, market, core, slot, windows, slots, bid_ticks, bid_lots, ask_ticks, ask_lots):
    """Take a new touch from whichever stream brought it."""
    s = row.symbol
    if core.mid_from_ns == MISSING:
        core.mid_from_ns = row.recv_ns
    fold_top(market, core, slot, s, row.recv_ns, bid_ticks, bid_lots, ask_ticks, ask_lots)
    refresh_moves(market, windows, slots, core, s)


@compiled
def take_quote(row, market, core):
    """Fold one side of a broker quote; return True with the second, unless the quote is empty or crossed."""
    if row.side > 0:
        core.quote_bid_row = row.price_ticks
        return False
    if core.quote_bid_row <= 0 or row.price_ticks < core.quote_bid_row:
        return False
    market.quote_bid_ticks = core.quote_bid_row
    market.quote_ask_ticks = row.price_ticks
    market.quote_ns = row.recv_ns
    return True


@compiled
def fold_book(row, market, core, ladders, levels, slot, windows, slots):
    """After a whole depth frame: take its touch when the frame is newer than the best quote."""
    s = row.symbol
    ladder = ladders[s, core.active]
    market.book_ns = row.recv_ns
    if ladder.n_bids == 0 or ladder.n_asks == 0:
        return
    if ladder.last_id != MISSING and core.top_id != MISSING and ladder.last_id <= core.top_id:
        return
    core.top_id = ladder.last_id
    bid_lots = levels[s, core.active, 0, ladder.bid_ticks - ladder.origin_ticks]
    ask_lots = levels[s, core.active, 1, ladder.ask_ticks - ladder.origin_ticks]
    take_top(row, market, core, slot, windows, slots, ladder.bid_ticks, bid_lots, ladder.ask_ticks, ask_lots)


@compiled
def fold_timer(now_ns, s, market, core, constants, ladders, levels, windows, slots, slot, sweep_counts, samples, basis, ordered, bins,
               usual, history, below, medians, scratch):
    """Close the 100 ms slot of one symbol and recompute what only time changes."""
    if market.mid_ok != 0 and now_ns - market.top_ns > constants.stale_ns:
        market.mid_ok = 0
        core.mid_from_ns = MISSING
    if market.quote_ns != MISSING and now_ns - market.quote_ns > constants.quote_stale_ns:
        market.basis_ok = 0
    close_slot(market, core, windows, slots, slot, s)
    second = core.second_ns == MISSING or now_ns // _NS != core.second_ns
    if second:
        core.second_ns = now_ns // _NS
        fold_second(market, core, samples, s)
        refresh_volatility(market, core)
        fold_basis(market, core, constants, basis, ordered, s)
        usual_ticklots = usual_sweep(s, core, sweep_counts)
        market.whale_usual_usd = usual_ticklots / constants.ticklots_per_usd
    refresh_moves(market, windows, slots, core, s)
    refresh_flow(market, windows, slot, core, s)
    refresh_slow(market, core, constants, windows, slot, s)
    refresh_extremes(market, core, windows, slots, s)
    refresh_residual(market, core, windows, slots, s)
    refresh_depth(market, core, constants, ladders, levels, bins, usual, history, below, medians, scratch, s, second)


@compiled
def decide(row, s, market, min_volume, positions, active, active_count, states, params, modes, settings, latches, actions, occasions,
           stops, shares, decisions, counts):
    """Ask the rules about every open position of one symbol and settle their votes."""
    for v in range(positions.shape[0]):
        for i in range(active_count[v]):
            k = active[v, i]
            position = positions[v, k]
            if position.status != OPEN or position.symbol != s or position.exit_ticks == MISSING:
                continue
            position.age_ns = row.recv_ns - position.open_ns
            votes = ask_rules(modes, v, params[v], states[v, k], market, position, actions, occasions, stops, shares)
            if votes == 0 and position.voted == 0:
                continue
            position.voted = votes
            settle_votes(row, market, v, k, position, settings[v], min_volume, modes, states, latches, votes, actions, occasions, stops,
                         shares, decisions, counts)


@compiled
def settle_votes(row, market, v, k, position, setting, min_volume, modes, states, latches, votes, actions, occasions, stops, shares,
                 decisions, counts):
    """Let at most one vote act and write down every vote that is news."""
    if votes == 0:
        for r in range(actions.shape[0]):
            if occasions[r] == 0:
                latches[v, k, r, LOGGED] = HOLD
        return
    best = choose(position, setting, modes, latches, v, k, actions, occasions, stops)
    outcome = 0
    if best >= 0:
        outcome = verdict(row, position, setting, actions[best])
    for r in range(actions.shape[0]):
        action = actions[r]
        if action == HOLD:
            if occasions[r] == 0:
                latches[v, k, r, LOGGED] = HOLD
            continue
        result = result_of(position, setting, modes, latches, v, k, r, best, outcome, action, occasions[r], stops[r])
        news = is_news(latches, v, k, r, action, occasions[r])
        if news or result == ACTED:
            if result == ACTED:
                order(row, position, setting, r, action, stops[r], shares[r], volume_kept(latches, v, k, r, action, occasions[r]),
                      min_volume)
            out = decisions[counts[0]]
            counts[0] += 1
            write(row, market, v, position, r, action, modes[v, r], result, votes, occasions[r], stops[r], out)
            write_evidence(r, states[v, k], out)
        note_vote(latches, v, k, r, action, occasions[r])
        if result == ACTED:
            latches[v, k, r, DONE] = 1
            latches[v, k, r, KEEP] = position.order_volume
            if occasions[r] != 0:
                latches[v, k, r, ACTED_ON] = occasions[r]


@compiled
def is_market(row, core):
    """Tell whether a print is a market trade; the id of one that is none is no hole either."""
    if row.bits & NOT_MARKET == 0:
        return True
    if row.id == core.last_trade_id + 1:
        core.last_trade_id = row.id
    return False


@compiled
def room(positions, actions, decisions, fills):
    """Return how many decisions and fills may stand in the outputs so that one more event surely fits."""
    per_event = positions.shape[0] * positions.shape[1]
    return decisions.shape[0] - per_event * actions.shape[0], fills.shape[0] - 2 * per_event - positions.shape[0]


@numba.njit(cache=True, error_model="numpy", _nrt=False)
def run(events, start, stop, market, core, constants, ladders, levels, pending, windows, slots, slot, running, sweeps, sweep_counts,
        samples, basis, ordered, bins, usual, history, below, medians, scratch, positions, active, active_count, states, defaults, params,
        modes, settings, latches, actions, occasions, stops, shares, decisions, fills, counts):
    """Fold events[start:stop]; return the index of the first one not folded, early when an output could fill up.

    counts[0] decisions and counts[1] fills have been written when it returns; the caller drains them and resumes.
    """
    most_decisions, most_fills = room(positions, actions, decisions, fills)
    for n in range(start, stop):
        if counts[0] > most_decisions or counts[1] > most_fills:
            return n
        row = events[n]
        kind = row.kind
        s = row.symbol
        now = row.recv_ns
        if kind == TIMER or kind == FEED:
            first, end = 0, market.shape[0]
            if kind == FEED and s != EVERY_SYMBOL:
                first, end = int(s), int(s) + 1
            for each in range(first, end):
                market[each].now_ns = now
                market[each].seq = row.seq
                market[each].kind = kind
                if kind == TIMER:
                    fold_timer(now, each, market[each], core[each], constants[each], ladders, levels, windows, slots, slot,
                               sweep_counts, samples, basis, ordered, bins, usual, history, below, medians, scratch)
                else:
                    hear(row, market[each], core[each], constants[each], windows, slots, slot, each)
                decide(row, each, market[each], constants[each].min_volume, positions, active, active_count, states, params, modes,
                       settings, latches, actions, occasions, stops, shares, decisions, counts)
            continue
        if kind == SWITCH:
            fold_switch(row, modes)
            continue
        view = market[s]
        hub = core[s]
        if kind == DEPTH:
            if not fold_diff(row, hub, ladders, levels, pending, constants[s].strict_chain):
                if view.book_ok != 0 and hub.book_status != BOOK_SYNCED:
                    lose_book(view)
                continue
            view.now_ns = now
            fold_book(row, view, hub, ladders, levels, slot, windows, slots)
        else:
            view.now_ns = now
            if kind == BEST:
                fold_best(row, view, hub, slot, windows, slots)
            elif kind == TRADE:
                if not is_market(row, hub):
                    continue
                fold_trade(row, view, hub, constants[s], slot, running, sweeps, sweep_counts)
                refresh_flow(view, windows, slot, hub, s)
            elif kind == QUOTE:
                if take_quote(row, view, hub):
                    fold_quote(row, view, positions, active, active_count, settings, fills, counts)
            elif kind == SNAPSHOT:
                if fold_snapshot(row, hub, ladders, levels, pending, constants[s].strict_chain):
                    fold_book(row, view, hub, ladders, levels, slot, windows, slots)
            elif kind == POSITION:
                fold_position(row, positions, active, active_count, states, defaults, latches, settings, fills, counts)
            elif kind == OUTCOME:
                fold_outcome(row, positions, active, active_count, latches, fills, counts)
            if row.bits & LAST == 0:
                continue
        view.seq = row.seq
        view.kind = kind
        decide(row, s, view, constants[s].min_volume, positions, active, active_count, states, params, modes, settings, latches, actions,
               occasions, stops, shares, decisions, counts)
    return stop
