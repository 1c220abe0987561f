"""How well a rule finds what was planted: its fires in shadow mode against the labels, one to one."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markets import plan_of, recorded

from engine.kernel import records as R
from engine.measure.market_model import MarketConfig
from engine.measure.measure import Options
from engine.measure.plants import Plant
from engine.positions import most_open, open_desk
from engine.replay import Feed
from engine.run import Run, Settings

S = 1_000_000_000
WARM_S = 130.0  # by then every feature is known
# a long and a short of every age up to a minute are always open, far from their stops
ENTRIES = "every=10s,side=both,sl=150bps,max=60s,start=30s"


Planter = Callable[[float, int], tuple[Plant, ...]]  # from a time and a side


@dataclass(frozen=True)
class Hunt:
    """One market searched for plants of one kind by one rule."""

    config: MarketConfig
    rule: str  # name[:preset]
    kind: str  # of the labels
    threatens: int  # label side * this = side of the position in danger
    after_s: float = 2.0  # how long after a label's end a fire still counts: what is left of the rule's window
    together_s: float = 2.0  # fires for one side that follow each other this closely are one alarm
    changes: tuple[str, ...] = ()
    actions: tuple[int, ...] = (R.TIGHTEN, R.PARTIAL, R.CLOSE)
    # what `plan_of` reads
    entries: str = ENTRIES
    rules_folder: Path | None = None
    shipped: bool = True
    settings: Settings = field(default_factory=Settings)
    options: Options = field(default_factory=Options)

    @property
    def wanted(self) -> str:
        """The rule in shadow mode, so that every position stays open."""
        return f"{self.rule}=shadow"


def spread_out(make: Planter, gap_s: float, duration_s: float, seed: int, from_s: float = WARM_S) -> tuple[Plant, ...]:
    """Return plants of drawn side, each within 3 s of the middle of its own stretch of the session."""
    draw = np.random.default_rng(seed)
    number = int((duration_s - from_s) // gap_s)
    moments = [from_s + (n + 0.5) * gap_s + float(draw.uniform(-3.0, 3.0)) for n in range(number)]
    return tuple(plant for at_s in moments for plant in make(at_s, int(draw.choice((-1, 1)))))


@dataclass(frozen=True)
class Found:
    """What came of a hunt; `fires` counts alarms, one for all positions of a side."""

    plants: int
    fires: int
    hits: int
    decoys: int
    on_decoys: int  # alarms for either side from the start of a decoy to its end and a little
    delays_s: tuple[float, ...]
    hours: float

    def __add__(self, other: "Found") -> "Found":
        return Found(
            self.plants + other.plants,
            self.fires + other.fires,
            self.hits + other.hits,
            self.decoys + other.decoys,
            self.on_decoys + other.on_decoys,
            self.delays_s + other.delays_s,
            self.hours + other.hours,
        )


def alarms(hunt: Hunt, session) -> list[tuple[int, int]]:
    """Return time and position side of each alarm, in order of time."""
    plan = plan_of(session, hunt)
    desk = open_desk(session.instruments, plan.model.tick_size)
    run = Run(
        desk.pairs, [plan.choices], [plan.settings], slots=most_open(plan.trades, session.manifest["last_recv_ns"]) + 2
    )
    logged = np.concatenate([run.feed(chunk)[0] for chunk in Feed(plan, desk)])
    sides = {trade.ticket: trade.side for trade in plan.trades}
    found, last, together_ns = [], {}, round(hunt.together_s * S)
    for row in logged[(logged["result"] == R.SHADOWED) & np.isin(logged["action"], hunt.actions)]:
        at, side = int(row["recv_ns"]), sides[int(row["ticket"])]
        if at - last.get(side, -together_ns - 1) > together_ns:
            found.append((at, side))
        last[side] = at
    return found


def hunted(hunt: Hunt) -> Found:
    """Generate, import, run, match: each label takes the first free alarm from its start to a little past its end."""
    with tempfile.TemporaryDirectory() as folder:
        session, planted = recorded(hunt.config, Path(folder))
        fires = alarms(hunt, session)
    labels = [label for label in planted if label["kind"] == hunt.kind and not label["decoy"]]
    late_ns, free, delays = round(hunt.after_s * S), list(fires), []
    decoys = [(label["start_ns"], label["end_ns"] + late_ns) for label in planted if label["decoy"]]
    fooled = sum(any(start <= at <= end for start, end in decoys) for at, _ in fires)
    for label in labels:
        side, end_ns = label["side"] * hunt.threatens, label["end_ns"] + late_ns
        place = next((n for n, (at, of) in enumerate(free) if of == side and label["start_ns"] <= at <= end_ns), None)
        if place is not None:
            delays.append((free.pop(place)[0] - label["start_ns"]) / S)
    return Found(
        len(labels), len(fires), len(delays), len(decoys), fooled, tuple(delays), hunt.config.duration_s / 3600
    )
