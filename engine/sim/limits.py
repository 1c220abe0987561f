"""What the venue allows: pings, messages, lifetimes and request weights, as its documents and captures state them."""

from dataclasses import dataclass, replace

from engine.record.decode import SPOT, USDM


@dataclass(frozen=True)
class Limits:
    """Limits of one venue, in real seconds."""

    ping_every_s: float
    pong_within_s: float
    messages_per_s: int  # from one client: requests, pings and pongs together
    weight_per_window: int
    window_s: float = 60.0
    lifetime_s: float = 86_400.0
    streams: int = 1024  # on one connection
    connections: int = 300  # new ones within connections_s
    connections_s: float = 300.0
    warnings: int = 5  # requests answered 429 before the address is banned with 418
    ban_s: float = 120.0  # doubles with each ban
    longest_ban_s: float = 259_200.0
    buffer_bytes: int = 64 << 20  # unsent bytes at which a slow client is cut off

    def sped(self, factor: float) -> "Limits":
        """Return the same limits with every time divided by a factor."""
        names = ("ping_every_s", "pong_within_s", "window_s", "lifetime_s", "connections_s", "ban_s", "longest_ban_s")
        messages = max(1, round(self.messages_per_s * factor))
        return replace(self, messages_per_s=messages, **{name: getattr(self, name) / factor for name in names})


LIMITS = {
    SPOT: Limits(ping_every_s=20.0, pong_within_s=60.0, messages_per_s=5, weight_per_window=6000),
    USDM: Limits(ping_every_s=180.0, pong_within_s=600.0, messages_per_s=10, weight_per_window=2400),
}
PREFIX = {SPOT: "/api/v3/", USDM: "/fapi/v1/"}
DEPTH_SIZES = (5, 10, 20, 50, 100, 500, 1000)  # USD-M serves only these
_DEPTH_WEIGHT = {
    SPOT: ((100, 5), (500, 25), (1000, 50), (5000, 250)),
    USDM: ((50, 2), (100, 5), (500, 10), (1000, 20)),
}
WEIGHTS = {
    SPOT: {
        "ping": 1,
        "time": 1,
        "exchangeInfo": 20,
        "aggTrades": 4,
        "trades": 25,
        "historicalTrades": 25,
        "ticker/bookTicker": 2,
    },
    USDM: {
        "ping": 1,
        "time": 1,
        "exchangeInfo": 1,
        "aggTrades": 20,
        "trades": 5,
        "historicalTrades": 200,
        "ticker/bookTicker": 2,
    },
}


def depth_weight(venue: str, limit: int) -> int:
    """Return what a depth request of a size costs."""
    return next((weight for size, weight in _DEPTH_WEIGHT[venue] if limit <= size), _DEPTH_WEIGHT[venue][-1][1])


class Budget:
    """The weight one address has used in the running window, and its bans."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.window = -1
        self.used = 0
        self.warned = 0
        self.bans = 0
        self.banned_until_s = 0.0

    def charge(self, weight: int, now_s: float) -> tuple[int, float]:
        """Return the HTTP status a request gets, 200, 429 or 418, and the seconds to stay away."""
        limits = self.limits
        if now_s < self.banned_until_s:
            return 418, self.banned_until_s - now_s
        window = int(now_s // limits.window_s)
        if window != self.window:
            self.window, self.used, self.warned = window, 0, 0
        self.used += weight
        if self.used <= limits.weight_per_window:
            return 200, 0.0
        self.warned += 1
        if self.warned <= limits.warnings:
            return 429, (window + 1) * limits.window_s - now_s
        length_s = min(limits.ban_s * 2**self.bans, limits.longest_ban_s)
        self.bans += 1
        self.banned_until_s = now_s + length_s
        return 418, length_s
