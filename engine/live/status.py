"""The state of a live run as one JSON object, for services and for the screen."""

from typing import TYPE_CHECKING

from engine import clock

if TYPE_CHECKING:
    from engine.live.session import LiveSession


def status_of(live: "LiveSession") -> dict:
    """Return what a live run shows of itself."""
    now_s, health = clock.monotonic_s(), live.health
    return {"run": live.name, "mode": live.options.mode, "account": live.account.shown, "held": live.guard.held if live.guard else "",
            "modes": live.loop.modes, "decisions": live.loop.decided, "events": live.loop.events, "actions": health.actions,
            "problem": health.problem, "positions": len(health.positions),
            "account_age_s": round(now_s - health.looked_s, 3) if health.looked_s else None,
            "quote_age_s": {symbol: round(now_s - at_s, 3) for symbol, at_s in health.quoted_s.items()},
            "recorder": live.recorder.status()}
