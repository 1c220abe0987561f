"""Resting depth by distance: voids, thin zones and walls, claimed only inside recorded depth."""

import math

from .compiled import compiled
from .records import BINS, BOOK_SYNCED, BUCKETS, LEVELS, MISSING, REFERENCE
from .tape import bucket_floor, bucket_of

THIN_SHARE = 0.25              # a void holds at most this share of the usual depth, a bin of it at most twice that
WALL_TIMES = 5.0               # a wall holds this many times the usual depth of its bin
PERSIST_NS = 500_000_000       # a void is claimed after this long
WALL_NS = 5_000_000_000
MIN_REFERENCE = 60             # one-second samples before "usual" means something
TOP_BINS = 20                  # 10 bps: the band of the cross-section median


@compiled
def forget(side):
    """Make every depth feature of a side absent."""
    side.depth_5bps_lots = math.nan
    side.depth_10bps_lots = math.nan
    side.depth_25bps_lots = math.nan
    side.depth_100bps_lots = math.nan
    drop_void(side)
    drop_thin(side)
    drop_wall(side)


@compiled
def lose_book(market):
    """Make everything drawn from the book absent."""
    market.book_ok = 0
    market.top5_imbalance = math.nan
    forget(market.bid)
    forget(market.ask)


@compiled
def drop_void(side):
    """End the void being tracked."""
    side.void_price = MISSING
    hide_void(side)


@compiled
def hide_void(side):
    """Claim no void."""
    side.void_id = MISSING
    side.void_near_bps = math.nan
    side.void_far_bps = math.nan
    side.void_deficit = math.nan
    side.void_cost_lots = math.nan
    side.void_age_ns = MISSING


@compiled
def drop_thin(side):
    """Claim no thin zone."""
    side.thin_price = MISSING
    side.thin_id = MISSING
    side.thin_near_bps = math.nan
    side.thin_far_bps = math.nan


@compiled
def drop_wall(side):
    """Claim no wall."""
    side.wall_price = MISSING
    side.wall_near_bps = math.nan
    side.wall_lots = math.nan
    side.wall_age_ns = MISSING


@compiled
def known_ticks(ladder, i):
    """Return how many ticks away from the touch, touch included, the book is known on one side."""
    if i == 0:
        bottom = ladder.origin_ticks
        if ladder.cover_low != MISSING and ladder.cover_low > bottom:
            bottom = ladder.cover_low
        return ladder.bid_ticks - bottom + 1
    top = ladder.origin_ticks + LEVELS - 1
    if ladder.cover_high != MISSING and ladder.cover_high < top:
        top = ladder.cover_high
    return top - ladder.ask_ticks + 1


@compiled
def depth_within(ladder, levels, s, b, i, start, ticks):
    """Return the lots resting from `start` to `start + ticks` ticks behind the touch of one side."""
    total = 0
    if i == 0:
        high = ladder.bid_ticks - ladder.origin_ticks - start
        for slot in range(max(0, high - ticks + 1), high + 1):
            total += levels[s, b, 0, slot]
    else:
        low = ladder.ask_ticks - ladder.origin_ticks + start
        for slot in range(low, min(LEVELS, low + ticks)):
            total += levels[s, b, 1, slot]
    return total


@compiled
def depth_near(ladder, levels, s, b, i, known, reach):
    """Return the lots resting less than `reach` ticks behind the touch, the touch always among them; NaN beyond recorded depth."""
    if known < reach:
        return math.nan
    return float(depth_within(ladder, levels, s, b, i, 0, max(1, int(reach))))


@compiled
def scan(core, ladder, levels, bins, s, i):
    """Sum the bins of one side and return how many of them are wholly inside recorded depth."""
    width = core.bin_ticks
    count = min(BINS, known_ticks(ladder, i) // width)
    for j in range(count):
        bins[s, i, j] = depth_within(ladder, levels, s, core.active, i, j * width, width)
    return max(0, count)


@compiled
def top_levels(ladder, levels, s, b, i, wanted):
    """Return the lots of the first `wanted` levels of a side, MISSING when it has fewer in the window."""
    total = 0
    left = wanted
    step = -1 if i == 0 else 1
    slot = (ladder.bid_ticks if i == 0 else ladder.ask_ticks) - ladder.origin_ticks
    if (ladder.n_bids if i == 0 else ladder.n_asks) < wanted:
        return MISSING
    while left > 0:
        lots = levels[s, b, i, slot]
        if lots > 0:
            total += lots
            left -= 1
        slot += step
    return total


@compiled
def fold_reference(core, bins, count, usual, s, i, history, below, medians):
    """Add this second's bins to the trailing distribution of each distance and move its median; unknown bins count as unseen."""
    place = core.reference_count % REFERENCE
    for j in range(BINS):
        new = bucket_of(bins[s, i, j]) if j < count else BUCKETS
        old = BUCKETS
        if core.reference_count >= REFERENCE:
            old = int(history[s, i, place, j])
        history[s, i, place, j] = new
        seen = usual[s, i, j, BUCKETS]
        median = medians[s, i, j]
        under = below[s, i, j]
        if new < BUCKETS:
            usual[s, i, j, new] += 1
            seen += 1
            if new < median:
                under += 1
        if old < BUCKETS:
            usual[s, i, j, old] -= 1
            seen -= 1
            if old < median:
                under -= 1
        half = seen // 2
        while under > half:
            median -= 1
            under -= usual[s, i, j, median]
        while median < BUCKETS - 1 and under + usual[s, i, j, median] <= half:
            under += usual[s, i, j, median]
            median += 1
        usual[s, i, j, BUCKETS] = seen
        medians[s, i, j] = median
        below[s, i, j] = under


@compiled
def find_void(market, side, core, ladder, bins, count, usual, medians, s, i):
    """Track the nearest run of bins that lack depth against what usually rests at their distance."""
    least = 3.0
    if market.sigma_bps > 0.0:
        least = max(3.0, 0.5 * market.sigma_bps * math.sqrt(10.0) * market.mid2 / 20_000.0)
    j = 1
    while j < count:
        held, normal, start = 0.0, 0.0, j
        while j < count and usual[s, i, j, BUCKETS] >= MIN_REFERENCE:
            typical = bucket_floor(medians[s, i, j])
            if typical <= 0.0 or bins[s, i, j] > 2.0 * THIN_SHARE * typical:
                break
            held += bins[s, i, j]
            normal += typical
            j += 1
        if j > start and held <= THIN_SHARE * normal and (j - start) * core.bin_ticks >= least:
            claim_void(market, side, core, ladder, bins, s, i, start, j, 1.0 - held / normal)
            return
        j += 1
    drop_void(side)


@compiled
def claim_void(market, side, core, ladder, bins, s, i, start, end, deficit):
    """Take a run as the void of this side, the same as before when its near edge hardly moved, and show it once it persists."""
    width = core.bin_ticks
    touch = ladder.bid_ticks if i == 0 else ladder.ask_ticks
    edge = touch - start * width if i == 0 else touch + start * width
    if side.void_price == MISSING or abs(edge - side.void_price) > 2 * width:
        side.void_count += 1
        side.void_since_ns = market.now_ns
    side.void_price = edge
    age = market.now_ns - side.void_since_ns
    if age < PERSIST_NS:
        hide_void(side)
        return
    scale = 20_000.0 / market.mid2
    cost = 0
    for j in range(start):
        cost += bins[s, i, j]
    side.void_id = side.void_count
    side.void_near_bps = start * width * scale
    side.void_far_bps = end * width * scale
    side.void_deficit = deficit
    side.void_cost_lots = float(cost)
    side.void_age_ns = age


@compiled
def middle_bin(bins, count, s, i, ordered):
    """Return the median of the first bins of one side, by insertion into a scratch array."""
    for j in range(count):
        value = bins[s, i, j]
        at = j
        while at > 0 and ordered[at - 1] > value:
            ordered[at] = ordered[at - 1]
            at -= 1
        ordered[at] = value
    return ordered[count // 2]


@compiled
def find_thin(market, side, core, ladder, bins, count, s, i, scratch):
    """Show the nearest run of two or more bins that hold under a quarter of this side's median bin, right now."""
    known = min(count, TOP_BINS)
    if known < TOP_BINS // 2:
        drop_thin(side)
        return
    limit = THIN_SHARE * middle_bin(bins, known, s, i, scratch)
    start = 1
    while start < known:
        end = start
        while end < known and limit > 0.0 and bins[s, i, end] <= limit:
            end += 1
        if end - start >= 2:
            touch = ladder.bid_ticks if i == 0 else ladder.ask_ticks
            edge = touch - start * core.bin_ticks if i == 0 else touch + start * core.bin_ticks
            if side.thin_price == MISSING or abs(edge - side.thin_price) > 2 * core.bin_ticks:
                side.thin_count += 1
            side.thin_price = edge
            side.thin_id = side.thin_count
            side.thin_near_bps = start * core.bin_ticks * 20_000.0 / market.mid2
            side.thin_far_bps = end * core.bin_ticks * 20_000.0 / market.mid2
            return
        start = end + 1
    drop_thin(side)


@compiled
def find_wall(market, side, core, constants, ladder, bins, count, usual, medians, s, i):
    """Show the nearest bin that holds many times its usual depth, once it has stood for five seconds."""
    for j in range(1, count):
        typical = bucket_floor(medians[s, i, j])
        lots = bins[s, i, j]
        if usual[s, i, j, BUCKETS] < MIN_REFERENCE or typical <= 0.0 or lots < WALL_TIMES * typical:
            continue
        if lots * (market.mid2 // 2) < constants.wall_ticklots:
            continue
        touch = ladder.bid_ticks if i == 0 else ladder.ask_ticks
        price = touch - j * core.bin_ticks if i == 0 else touch + j * core.bin_ticks
        if side.wall_price == MISSING or abs(price - side.wall_price) > 2 * core.bin_ticks:
            side.wall_since_ns = market.now_ns
        side.wall_price = price
        age = market.now_ns - side.wall_since_ns
        if age < WALL_NS:
            break
        side.wall_near_bps = j * core.bin_ticks * 20_000.0 / market.mid2
        side.wall_lots = float(lots)
        side.wall_age_ns = age
        return
    else:
        side.wall_price = MISSING
    side.wall_near_bps = math.nan
    side.wall_lots = math.nan
    side.wall_age_ns = MISSING


@compiled
def refresh_side(market, side, core, constants, ladder, levels, bins, usual, history, below, medians, scratch, s, i, second):
    """Bring every depth feature of one side up to the book as it stands."""
    count = scan(core, ladder, levels, bins, s, i)
    per_bp = market.mid2 / 20_000.0
    known = known_ticks(ladder, i)
    side.depth_5bps_lots = depth_near(ladder, levels, s, core.active, i, known, 5.0 * per_bp)
    side.depth_10bps_lots = depth_near(ladder, levels, s, core.active, i, known, 10.0 * per_bp)
    if second:
        side.depth_25bps_lots = depth_near(ladder, levels, s, core.active, i, known, 25.0 * per_bp)
        side.depth_100bps_lots = depth_near(ladder, levels, s, core.active, i, known, 100.0 * per_bp)
    find_void(market, side, core, ladder, bins, count, usual, medians, s, i)
    find_thin(market, side, core, ladder, bins, count, s, i, scratch)
    find_wall(market, side, core, constants, ladder, bins, count, usual, medians, s, i)
    if second:
        fold_reference(core, bins, count, usual, s, i, history, below, medians)


@compiled
def refresh_depth(market, core, constants, ladders, levels, bins, usual, history, below, medians, scratch, s, second):
    """Bring the depth features of both sides up to date, or make them absent while the book is not to be trusted."""
    ladder = ladders[s, core.active]
    market.book_ok = 0
    if (core.book_status == BOOK_SYNCED and ladder.n_bids > 0 and ladder.n_asks > 0 and market.mid_ok != 0
            and market.book_ns != MISSING and market.now_ns - market.book_ns <= constants.stale_ns):
        market.book_ok = 1
    market.top5_imbalance = math.nan
    if market.book_ok == 0:
        lose_book(market)
        return
    if core.bin_ticks == 0:
        core.bin_ticks = max(1, (market.mid2 + 20_000) // 40_000)
    refresh_side(market, market.bid, core, constants, ladder, levels, bins, usual, history, below, medians, scratch, s, 0, second)
    refresh_side(market, market.ask, core, constants, ladder, levels, bins, usual, history, below, medians, scratch, s, 1, second)
    if second:
        core.reference_count += 1
    bids = top_levels(ladder, levels, s, core.active, 0, 5)
    asks = top_levels(ladder, levels, s, core.active, 1, 5)
    if bids != MISSING and asks != MISSING:
        market.top5_imbalance = (bids - asks) / (bids + asks)
