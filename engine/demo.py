"""The demo: a seeded market is generated, imported as a recording would be, checked, replayed with every rule, and the rules measured."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from engine.entries import parse_entries, plan_entries
from engine.errors import BadInput, CheckFailed
from engine.measure.market_model import MarketConfig
from engine.measure.measure import Options, measure
from engine.measure.plants import Divergence, Rate, Reversal, Void, Wall, Whale
from engine.measure.synthetic import generate
from engine.record.importer import import_files
from engine.record.quality import check_session
from engine.record.store import Session, sessions_folder
from engine.replay import Plan, replay
from engine.report.html import write_report
from engine.rules import choose, find_rules

ENTRIES = "every=10s,side=both,sl=10bps,tp=15bps,max=120s,start=60s"


def demo(data: Path, seed: int, minutes: float, say: Callable[[str], None]) -> dict:
    """Run the demo into a data root and return its parts; the same seed gives the same digest."""
    if not 4 <= minutes <= 600:
        raise BadInput(f"--minutes {minutes:g}: the demo takes 4 to 600")
    name = f"demo-{seed}-{minutes:g}m"
    labels = recorded(data, name, market(seed, minutes), say)
    session = Session(sessions_folder(data) / name)
    say("checking the session")
    checked = check_session(session)
    if not checked["ok"]:
        raise CheckFailed(f"the generated session {name} is not sound: {checked['problems'][0]}")
    say("replaying it with every rule (the first start compiles, some seconds)")
    spec = parse_entries(ENTRIES)
    manifest = session.manifest
    broker = next(entry.symbol for entry in session.instruments if entry.venue == "mt5")
    trades = plan_entries(spec, manifest["first_recv_ns"], manifest["last_recv_ns"], broker)
    plan = Plan(session, trades, choose(find_rules(), "all", []))
    result = replay(plan, data, {"entries": ENTRIES})
    say("measuring each rule against random exits")
    measured, detail = measure([Plan(session, trades, plan.choices)], data, Options(trades=ENTRIES))
    report = data / "reports" / f"{name}.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    measured["report"] = str(report)
    write_report(report, measured, detail)
    return {"session": name, "planted": labels, "check": checked, "replay": result, "measure": measured,
            "modes": {choice.rule.name: choice.mode for choice in plan.choices}}


def recorded(data: Path, name: str, config: MarketConfig, say: Callable[[str], None]) -> int:
    """Generate a market and record it, where its session is not there yet; return how many events were planted."""
    place = sessions_folder(data) / name
    if place.exists():
        return 0
    with tempfile.TemporaryDirectory() as folder:
        say(f"generating {config.duration_s / 60:g} minutes of market, seed {config.seed}")
        made = generate(config, Path(folder) / "market")
        say("recording it as a session")
        try:
            import_files([made.capture, made.ticks], data, name=name)
        except BadInput:
            if not place.exists():         # else another demo made the very same meanwhile
                raise
    return len(made.planted)


def market(seed: int, minutes: float) -> MarketConfig:
    """Return the demo's market: no edge in it but that of the planted whales, voids, divergences and reversals."""
    planted = ((Whale(strength=40.0, drift_bps=8.0), 30.0), (Void(drift_bps=6.0), 20.0), (Wall(), 8.0), (Divergence(drift_bps=8.0), 8.0),
               (Reversal(), 12.0))
    return MarketConfig(seed=seed, duration_s=minutes * 60.0, rates=tuple(Rate(plant, per_hour, 60.0) for plant, per_hour in planted))
