"""The command line: arguments only; each command calls one function and prints what it returns."""

import argparse
import json
import os
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

from engine import arguments
from engine.errors import BadInput, CheckFailed, SourceFailed, TapeguardError
from engine.live import cli as live_cli
from engine.sim import cli as sim_cli

INTERRUPTED = 130                  # as a shell reports a program that Ctrl-C ended


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 the answer is no, 2 wrong use, 3 a source failed, 130 Ctrl-C."""
    parser, args = build_parser(), argparse.Namespace(debug=False)
    try:
        parser.parse_args(argv, args)
        if args.version:
            print(f"tapeguard {metadata.version('tapeguard')}")
            return 0
        if not hasattr(args, "command"):
            parser.print_help()
            return 2
        return args.command(args) or 0
    except TapeguardError as error:
        if args.debug:
            raise
        print(f"tapeguard: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("tapeguard: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:           # of a file or folder somebody named, or a disk: the system's own words
        if args.debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"tapeguard: {place}{error.strerror or error}; mend that, or name another place (--data DIR); --debug shows where "
              "it came from", file=sys.stderr)
        return SourceFailed.exit_code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    return arguments.build(
        {
            "demo": demo,
            "import": import_,
            "record": record,
            "sim": sim_cli.sim,
            "sessions": sessions,
            "check": check,
            "sql": sql,
            "rules": rules,
            "replay": replay,
            "measure": measure,
            "analyse": analyse,
            "mcp": mcp,
            "sweep": sweep,
            **{name: partial(getattr(live_cli, name), show=show) for name in ("doctor", "live", "verify", "switch", "kill")},
        }
    )


def console():
    """Return the console for a person's output."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140)


def show(args: argparse.Namespace, result, *parts) -> None:
    """Print a result: as JSON alone, or the parts made for a person."""
    if args.json:
        print(json.dumps(result, allow_nan=False))
        return
    out = console()
    for part in parts:
        out.print(part)


def find_session(args: argparse.Namespace, name: str | None = None):
    """Open the session named on the command line: a folder, or a name under the data root."""
    from engine.errors import nearest
    from engine.record.store import Session, sessions_folder

    name = args.session if name is None else name
    given = Path(name)
    if (given / "manifest.json").is_file() or given.is_dir() and len(given.parts) > 1:
        return Session(given)
    folder = sessions_folder(args.data)
    if not (folder / name).is_dir():
        names = [path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith(".")]
        hint = nearest(name, names) if names else "there are none yet: tapeguard import or tapeguard demo makes one"
        raise BadInput(f"no session {name!r} in {folder}; {hint}")
    return Session(folder / name)


def find_sessions(args: argparse.Namespace) -> list:
    """Open several sessions, none twice; those of the same market at the same time are told."""
    from engine.plans import overlapping

    found = [find_session(args, name) for name in args.session]
    for text in overlapping(found):
        print(f"tapeguard: {text}", file=sys.stderr)
    return found


def demo(args: argparse.Namespace) -> None:
    """Generate, record, check, replay."""
    from engine import screen
    from engine.demo import demo as run

    result = run(args.data, args.seed, args.minutes, lambda text: print(text, file=sys.stderr))
    tables = screen.replay_tables(result["replay"], result["modes"])
    show(
        args,
        result,
        screen.check_table(result["check"]),
        *tables,
        screen.measure_parts(result["measure"])[0],
        f"digest {result['replay']['digest'][:16]}  run {result['replay']['path']}  report {result['measure']['report']}",
        "The market is generated and has no edge outside its planted events: the numbers show that the path works, not that a rule earns.",
    )


def import_(args: argparse.Namespace) -> None:
    """Import files into a session."""
    from engine import screen
    from engine.record.importer import import_files

    with screen.progress("importing", args.json) as report:
        result = import_files(
            args.paths,
            args.data,
            name=args.name,
            symbol=args.symbol,
            venue=args.venue,
            ticks=arguments.pairs(args.tick, "--tick", "SYMBOL=SIZE, such as BTCUSDT=0.1"),
            lots=arguments.pairs(args.lot, "--lot", "SYMBOL=SIZE, such as BTCUSDT=0.001"),
            latency_ms=args.latency_ms,
            skip_limit=args.skip_limit,
            server_offset_s=None if args.server_offset is None else int(args.server_offset * 3600),
            progress=report,
        )
    skipped = [f"skipped {entry['file']} line {entry['line']}: {entry['reason']}" for entry in result["skipped"][:10]]
    show(args, result, screen.import_table(result), *skipped, f"{result['path']} in {result['seconds']} s")


def record(args: argparse.Namespace) -> int:
    """Record a venue live, with a terminal the broker too."""
    if args.terminal:
        if args.name:
            raise BadInput("--name goes without --terminal: such a recording is named by its symbols and time")
        return live_cli.live(args, show)
    from rich.live import Live

    from engine import screen
    from engine.record.recorder import Options
    from engine.record.session import record_session
    from engine.sources.binance import LIVE, Endpoint

    base = LIVE[args.venue]
    endpoint = Endpoint(args.venue, args.ws or base.ws, args.rest or base.rest)
    options = Options(endpoint, [symbol.upper() for symbol in args.symbols], args.stream, duration_s=args.seconds)
    say = lambda text: print(text, file=sys.stderr)  # noqa: E731
    journal = {"sync_interval_ms": args.sync_ms, "disk_reserve_bytes": int(args.reserve_gb * 1e9)}
    if args.quiet or args.json or args.json_lines or not screen.STDERR.is_terminal:
        show_status = (lambda recorder: say(json.dumps(recorder.status()))) if args.json_lines else None
        result = record_session(options, args.data, args.name, args.keep, show_status, say, **journal)
    else:
        with Live(console=screen.STDERR, refresh_per_second=4) as live:
            result = record_session(
                options,
                args.data,
                args.name,
                args.keep,
                lambda recorder: live.update(screen.record_table(recorder.status())),
                live.console.print,
                **journal,
            )
    checked = result.get("check")
    show(args, result, screen.import_table(result), *([screen.check_table(checked)] if checked else []), str(result["path"]))
    return 0 if checked is None or checked["ok"] else CheckFailed.exit_code


def sessions(args: argparse.Namespace) -> None:
    """List sessions."""
    from engine import screen
    from engine.record.catalog import list_sessions

    entries = list_sessions(args.data)
    problems = [f"{entry['session']}: {entry['problem']}" for entry in entries if entry.get("problem")]
    show(args, entries, screen.sessions_table(entries), *problems)


def check(args: argparse.Namespace) -> int:
    """Check a session."""
    from engine import screen
    from engine.record.quality import check_session

    result = check_session(find_session(args))
    show(args, result, screen.check_table(result), *(f"problem: {text}" for text in result["problems"]),
         *(f"note: {text}" for text in result["notes"]))
    return 0 if result["ok"] else CheckFailed.exit_code


def sql(args: argparse.Namespace) -> None:
    """Query a session."""
    from engine import screen
    from engine.record.query import run_sql

    columns, rows = run_sql(find_session(args), args.query)
    table = {
        "columns": columns,
        "rows": [[value if isinstance(value, int | float | str | None) else str(value) for value in row] for row in rows],
    }
    show(args, table, screen.sql_table(columns, rows))


def rules(args: argparse.Namespace) -> None:
    """List rules."""
    from rich.table import Table

    from engine.rules import find_rules

    found = find_rules(args.rules_dir)
    table = Table("rule", "preset", "parameters", title="Exit rules")
    for rule in found.values():
        for preset, params in rule.presets.items():
            table.add_row(rule.name, preset, " ".join(f"{name}={getattr(params, name):g}" for name, _ in rule.params_fields))
    result = {
        name: {
            "doc": rule.doc,
            "presets": {
                preset: {field: getattr(params, field) for field, _ in rule.params_fields}
                for preset, params in rule.presets.items()
            },
        }
        for name, rule in found.items()
    }
    show(args, result, table, *(f"{name}: {rule.doc}" for name, rule in found.items()))


def replay(args: argparse.Namespace) -> int:
    """Replay a session, or repeat a run."""
    from engine import screen
    from engine.plans import make_plan
    from engine.replay import replay as run
    from engine.replay import replay_again
    from engine.runlog import read_manifest

    if args.again:
        before = read_manifest(args.again)["digest"]
        result = replay_again(args.again, args.data, find_session(args).path if args.session else None)
        same = before == result["digest"]
        show(
            args,
            {**result, "identical": same},
            f"{'identical' if same else 'DIFFERENT'}: {before[:16]} then {result['digest'][:16]}",
        )
        return 0 if same else CheckFailed.exit_code
    if not args.session:
        raise BadInput("name a session to replay; tapeguard sessions lists them")
    plan, inputs = make_plan(args, find_session(args))
    with screen.progress("replaying", args.json) as report:
        result = run(plan, args.data, inputs, report)
    tables = screen.replay_tables(result, {choice.rule.name: choice.mode for choice in plan.choices})
    show(
        args,
        result,
        *tables,
        f"{result['events']:,} events, {result['decisions']:,} decisions, digest {result['digest'][:16]}",
        f"run {result['path']} in {result['seconds']['total']} s",
    )
    return 0


def measure(args: argparse.Namespace) -> None:
    """Measure the rules and write the report."""
    from engine import screen
    from engine.measure.measure import Options
    from engine.measure.measure import measure as run
    from engine.plans import make_plan
    from engine.report.html import write_report

    if args.report and not args.report.parent.is_dir():
        raise BadInput(f"--report {args.report}: {args.report.parent} is no folder; make it, or name a file in one that is there")
    made = [make_plan(args, session) for session in find_sessions(args)]
    options = Options(args.seed, args.draws, trades=json.dumps(made[0][1], sort_keys=True))
    with screen.progress("measuring", args.json) as report:
        result, detail = run([plan for plan, _ in made], args.data, options, report)
    path = args.report or args.data / "reports" / f"{'+'.join(args.session)[:80].replace('/', '-')}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    result["report"] = str(path)
    write_report(path, result, detail)
    show(args, result, *screen.measure_parts(result), f"\n{result['calibration']['sentence']}", f"report {path}")


def sweep(args: argparse.Namespace) -> None:
    """Sweep parameters."""
    from engine import screen
    from engine.measure.ledger import ledger_path
    from engine.measure.sweep import sweep as run
    from engine.plans import make_plan

    made = [make_plan(args, session) for session in find_sessions(args)]
    plans = [plan for plan, _ in made]
    with screen.progress("sweeping", args.json) as report:
        result = run(
            plans,
            plans[0].choices,
            args.grid,
            plans[0].settings,
            args.workers,
            report,
            ledger=ledger_path(args.data),
            trades=json.dumps(made[0][1], sort_keys=True),
            seed=args.seed,
        )
    show(args, result, *screen.sweep_parts(result))


def analyse(args: argparse.Namespace) -> None:
    """Show the analysis of a moment."""
    from engine.analysis.calibration import published
    from engine.analysis.screen import screen_parts
    from engine.analysis.summary import analyse as run
    from engine.record.recording import find_recording

    session, calibrations = find_recording(args.data, args.session) or find_session(args), published(args.data)
    result = run(session, args.symbol, at=args.at, direction=args.direction, detail="full", calibrations=calibrations)
    show(args, result, screen_parts(result))


def mcp(args: argparse.Namespace) -> None:
    """Serve the analysis to a model."""
    from engine.analysis.server import serve

    serve(args.data, transport=args.transport, port=args.port, say=lambda told: print(json.dumps(told), file=sys.stderr, flush=True))


if __name__ == "__main__":
    sys.exit(main())
