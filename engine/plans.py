"""Which trades of which sessions are replayed or measured, with which rules and fills, from the command line."""

from argparse import Namespace
from itertools import combinations

from engine.entries import parse_entries, plan_entries
from engine.errors import BadInput
from engine.quotes import parse_quotes
from engine.record.store import Session, file_sha256
from engine.replay import Plan
from engine.rules import choose, find_rules
from engine.run import Settings
from engine.sources.history import load_trades


def overlapping(sessions: list[Session]) -> list[str]:
    """Return what is counted twice in sessions of one market at one time; raise where a session is named twice."""
    found = []
    for one, other in combinations(sessions, 2):
        if one.path.resolve() == other.path.resolve():
            raise BadInput(f"session {one.id} is named twice: its trades would count double; name it once")
        markets = _markets(one) & _markets(other)
        mine, others = one.manifest, other.manifest
        begin_ns = max(mine["first_recv_ns"], others["first_recv_ns"])
        end_ns = min(mine["last_recv_ns"], others["last_recv_ns"])
        if markets and begin_ns < end_ns:
            found.append(f"sessions {one.id} and {other.id} both hold {', '.join(sorted(symbol for _, symbol in markets))} for the same "
                         f"{(end_ns - begin_ns) / 1e9:,.0f} s: trades in them count double")
    return found


def _markets(session: Session) -> set[tuple[str, str]]:
    return {(each.venue, each.symbol) for each in session.instruments if each.venue != "mt5"}


def make_plan(args: Namespace, session: Session) -> tuple[Plan, dict]:
    """Return what a replay or a measurement of one session is asked to do, and where its trades came from."""
    if not args.trades and not args.entries:
        raise BadInput("give --trades FILE or --entries SPEC, such as --entries every=10s,side=both,sl=20bps,tp=30bps,max=300s")
    choices = choose(find_rules(args.rules_dir), args.rules, args.set)
    if args.trades:
        trades = load_trades(args.trades, int(args.server_offset * 3600))
        inputs = {"trades": args.trades.name, "sha256": file_sha256(args.trades)}
    else:
        spec = parse_entries(args.entries)
        inputs = {"entries": args.entries}
        names = [entry.symbol for entry in session.instruments]
        leading = [entry.symbol for entry in session.instruments if entry.venue != "mt5"]
        if not spec.symbol and len(leading or names) > 1:
            raise BadInput(f"session {session.id} has several symbols; add symbol= to --entries, one of {', '.join(names)}")
        trades = plan_entries(spec, session.manifest["first_recv_ns"], session.manifest["last_recv_ns"], (leading or names)[0])
    settings = Settings(
        latency_ns=int(args.latency_ms * 1e6), cooldown_ns=int(args.cooldown_ms * 1e6), slippage_ticks=args.slippage_ticks
    )
    return Plan(
        session,
        trades,
        choices,
        settings,
        parse_quotes(args.quotes),
        args.model_quotes,
        args.volume_step,
        getattr(args, "recorded_exits", False),
        args.chunk,
    ), inputs
