"""From the votes of the rules to at most one action for a position at one event; every loser is written down too."""

from .compiled import compiled
from .records import (
    ACTED,
    ALERT,
    ALERTED,
    BUSY,
    CLOSE,
    COOLING,
    HOLD,
    MISSING,
    MODE_ACT,
    MODE_ALERT,
    MODE_SHADOW,
    OUTRANKED,
    PARTIAL,
    SHADOWED,
    TIGHTEN,
    USELESS,
)

# columns of a latch: the vote last written down, its occasion, whether it was acted on, the last occasion that was,
# and the volume that the order for the vote last written down was to keep
LOGGED, OCCASION, DONE, ACTED_ON, KEEP = 0, 1, 2, 3, 4


@compiled
def volume_left(position, share, min_volume):
    """Return the volume steps to keep after closing a share: a target, so that asking twice closes once; 0 means close whole."""
    left = position.volume - int(position.initial_volume * share + 1e-9)
    left = min(left, position.volume - min_volume)         # less than the smallest deal cannot be closed
    if left < min_volume:
        return 0
    return left


@compiled
def is_tighter(position, stop_ticks, step_ticks):
    """Tell whether a stop is nearer than the one in force by a step, and still on the far side of the price."""
    if stop_ticks == MISSING or position.side * (position.exit_ticks - stop_ticks) <= 0:
        return False
    if position.stop_ticks == MISSING:
        return True
    return position.side * (stop_ticks - position.stop_ticks) >= step_ticks


@compiled
def is_news(latches, v, k, r, action, occasion):
    """Tell whether a vote differs from the one last written down for this rule and position."""
    return latches[v, k, r, LOGGED] != action or latches[v, k, r, OCCASION] != occasion


@compiled
def note_vote(latches, v, k, r, action, occasion):
    """Remember a vote as written down and not acted on."""
    if is_news(latches, v, k, r, action, occasion):
        latches[v, k, r, LOGGED] = action
        latches[v, k, r, OCCASION] = occasion
        latches[v, k, r, DONE] = 0
        latches[v, k, r, KEEP] = 0


@compiled
def volume_kept(latches, v, k, r, action, occasion):
    """Return what an earlier order for this same vote was to keep: asked again after a refusal, it aims no lower; 0 for none."""
    if is_news(latches, v, k, r, action, occasion):
        return 0
    return latches[v, k, r, KEEP]


@compiled
def is_candidate(position, setting, modes, latches, v, k, r, action, occasion, stop_ticks):
    """Tell whether a vote may become this event's action."""
    if modes[v, r] != MODE_ACT or action <= ALERT:
        return False
    if action == TIGHTEN and not is_tighter(position, stop_ticks, setting.min_stop_step_ticks):
        return False
    if action == PARTIAL and position.volume <= volume_kept(latches, v, k, r, action, occasion):
        return False           # refused, as it was told, and there all the same
    if action == TIGHTEN and occasion == 0:
        return True            # a stop without an occasion follows the price and may move again
    if occasion != 0:
        return latches[v, k, r, ACTED_ON] != occasion
    return is_news(latches, v, k, r, action, occasion) or latches[v, k, r, DONE] == 0


@compiled
def choose(position, setting, modes, latches, v, k, actions, occasions, stops):
    """Return the rule whose vote wins: the most severe, then the tightest stop, then the first; -1 for none."""
    best = -1
    for r in range(actions.shape[0]):
        if not is_candidate(position, setting, modes, latches, v, k, r, actions[r], occasions[r], stops[r]):
            continue
        if best < 0 or actions[r] > actions[best]:
            best = r
        elif actions[r] == TIGHTEN and actions[best] == TIGHTEN and position.side * (stops[r] - stops[best]) > 0:
            best = r
    return best


@compiled
def order(row, position, setting, r, action, stop_ticks, share, kept, min_volume):
    """Put the winning action in flight."""
    position.order = action
    position.order_rule = r
    position.order_decided_ns = row.recv_ns
    position.order_due_ns = row.recv_ns + setting.latency_ns
    position.acted_ns = row.recv_ns
    position.order_stop_ticks = stop_ticks if action == TIGHTEN else MISSING
    position.order_volume = MISSING
    if action == PARTIAL:
        position.order_volume = max(volume_left(position, share, min_volume), kept)
        if position.order_volume == 0:
            position.order = CLOSE


@compiled
def take_refusal(row, position, latches, k):
    """Let the rule of a refused order ask again later: its vote counts as not acted on."""
    position.refused = position.order
    position.refused_ns = row.recv_ns
    if position.order_rule >= 0:
        latches[0, k, position.order_rule, DONE] = 0
        latches[0, k, position.order_rule, ACTED_ON] = 0


@compiled
def fold_switch(row, modes):
    """Give a rule another mode, in every variant."""
    if 0 <= row.id < modes.shape[1]:
        for v in range(modes.shape[0]):
            modes[v, row.id] = row.code


@compiled
def verdict(row, position, setting, action):
    """Return what happens to the winning vote now."""
    if position.order != HOLD:
        return BUSY
    if action <= position.refused and row.recv_ns - position.refused_ns < setting.retry_ns:
        return COOLING
    if action != CLOSE and position.acted_ns != MISSING and row.recv_ns - position.acted_ns < setting.cooldown_ns:
        return COOLING
    return ACTED


@compiled
def result_of(position, setting, modes, latches, v, k, r, best, outcome, action, occasion, stop_ticks):
    """Return how one vote ended at this event."""
    if modes[v, r] == MODE_ALERT or action == ALERT:
        return ALERTED
    if modes[v, r] == MODE_SHADOW:
        return SHADOWED
    if r == best:
        return outcome
    if not is_candidate(position, setting, modes, latches, v, k, r, action, occasion, stop_ticks):
        return USELESS
    return OUTRANKED


@compiled
def write(row, market, v, position, r, action, mode, result, votes, occasion, stop_ticks, out):
    """Fill one decision row, all but the evidence."""
    out.seq = row.seq
    out.recv_ns = row.recv_ns
    out.ticket = position.ticket
    out.variant = v
    out.symbol = position.symbol
    out.rule = r
    out.action = action
    out.mode = mode
    out.result = result
    out.votes = votes
    out.occasion = occasion
    out.bid_ticks = market.quote_bid_ticks
    out.ask_ticks = market.quote_ask_ticks
    out.venue_mid2 = market.mid2
    out.stop_ticks = stop_ticks if action == TIGHTEN else MISSING
    out.volume_left = position.order_volume if result == ACTED else MISSING
    out.gain_r = position.gain_r
    out.age_ns = position.age_ns
