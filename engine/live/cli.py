"""The commands about a live run: arguments to one call, and what it says on the screen."""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from engine.arguments import MAP, pairs
from engine.errors import BadInput, CheckFailed, SourceFailed, nearest


def live(args: argparse.Namespace, show) -> int:
    """Run the loop live."""
    from engine.cli import console
    from engine.live.commands import is_used, running_in
    from engine.live.session import LiveSession

    options = options_of(args)
    if options.mode == "act":
        from engine.live.admission import lacking, refuse
        if missing := lacking(options, args.data):
            refuse([*missing, "a verified shadow run of the account is asked for after that"])
    if is_used(args.data):
        raise BadInput(f"{args.data} is in use by {running_in(args.data)}; end it first, or give this one another data root with --data")
    check_terminal(options.terminal)
    session = LiveSession(options, args.data, lambda text: heard(f"tapeguard: {text}"))
    try:
        result = run_shown(session, args)
    except KeyboardInterrupt:
        if session.folder.exists():
            heard(f"tapeguard: the recording of {session.name} is kept; tapeguard verify finishes it")
        raise
    if args.json:
        print(json.dumps(result, allow_nan=False))
    else:
        out = console()
        out.print(verify_table(result["verify"]))
        out.print(f"run {result['path']}  session {result['session']}")
    return 0 if result["verify"]["identical"] and result["check"]["ok"] else CheckFailed.exit_code


def run_shown(session, args: argparse.Namespace) -> dict:
    """Run, with the screen or the lines of status that were asked for."""
    if args.json_lines:
        from engine.live.status import status_of
        return session.run(throttled(lambda live: heard(json.dumps(status_of(live)))))
    if args.quiet or args.json or not sys.stderr.isatty():
        return session.run()
    from rich.live import Live

    from engine.live.screen import live_screen
    from engine.screen import STDERR
    with Live(console=STDERR, refresh_per_second=2, screen=args.full_screen) as screen:
        def draw(run) -> None:
            screen.update(live_screen(run))
            if run.alarms.ring():
                screen.console.bell()
        return session.run(throttled(draw, 0.5))


def heard(text: str) -> None:
    """Print a line on standard error; a run goes on when nobody reads it any more."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")


def throttled(show, every_s: float = 1.0):
    """Return a call that passes on one call in so many seconds."""
    from engine import clock
    last_s = 0.0

    def call(live) -> None:
        nonlocal last_s
        if clock.monotonic_s() - last_s >= every_s:
            last_s = clock.monotonic_s()
            show(live)
    return call


def options_of(args: argparse.Namespace):
    """Return what a live run is asked, from the command line."""
    from engine.gateway.orders import Limits
    from engine.live.options import LiveOptions, Terminal
    from engine.live.webhook import check_webhook
    from engine.record.recorder import Options
    from engine.rules import choose, find_rules
    from engine.run import Settings
    from engine.sources.binance import LIVE, Endpoint

    if args.webhook:
        check_webhook(args.webhook)
    base = LIVE[args.venue]
    symbols = [symbol.upper() for symbol in args.symbols]
    names = pairs(args.map, "--map", MAP)
    for symbol in names:
        if symbol not in symbols:
            raise BadInput(f"--map {symbol}: that symbol is not among those named; {nearest(symbol, symbols)}")
    given = {name: getattr(args, name) for name in ("actions_per_minute", "actions_per_day", "max_share", "max_spread_bps",
                                                    "max_quote_age_s") if getattr(args, name) is not None}
    terminal = Terminal(args.terminal, args.worker_command, {"path": args.path} if args.path else {})
    return LiveOptions(
        args.mode, Options(Endpoint(args.venue, args.ws or base.ws, args.rest or base.rest), symbols, args.stream,
                           duration_s=args.seconds),
        choose(find_rules(args.rules_dir), args.rules, args.set), terminal, names, Limits(**given), tuple(given), args.account,
        Settings(latency_ns=int(args.latency_ms * 1e6), cooldown_ns=int(args.cooldown_ms * 1e6)), args.webhook or "", args.keep,
        args.hold_back_s, {"sync_interval_ms": args.sync_ms, "disk_reserve_bytes": int(args.reserve_gb * 1e9)})


def check_terminal(terminal) -> None:
    """Raise where no worker can be started, or has no such terminal: the doctor's sentence, before anything is begun."""
    from engine.finding import FAIL
    from engine.gateway.checkup import REAL, probe

    if terminal.name != REAL and not terminal.name.startswith("simulated:"):
        raise BadInput(f"--terminal {terminal.name}: {REAL}, or simulated:@ADDRESS.json of tapeguard sim terminal, is right")
    program = terminal.command[0] if terminal.command else sys.executable
    if not shutil.which(program):
        raise BadInput(f"--worker-command: there is no program {program} here; the Python that has {REAL} is right, such as "
                       '"wine python.exe"')
    if terminal.name == REAL:
        for found in probe(terminal.command or (program,)):
            if found and found.state == FAIL:
                raise SourceFailed(f"{found.seen}: {found.mend}")


def find_run(args: argparse.Namespace) -> Path:
    """Return the folder of a live run named on the command line: a folder, a name, or none for the newest that began."""
    from engine.runlog import runs_folder

    folder = runs_folder(args.data)
    if args.run and ((given := Path(args.run)) / "live.json").is_file():
        return given
    runs = sorted(path.parent for path in folder.glob("*/live.json"))
    if not args.run:
        if not runs:
            raise BadInput(f"there is no live run in {folder} yet; tapeguard live makes one")
        begun = [path for path in runs if '"instruments"' in (path / "live.json").read_text(encoding="utf-8")]
        return max(begun or runs, key=lambda path: (path / "live.json").stat().st_mtime_ns)
    if not (folder / args.run).is_dir():
        raise BadInput(f"no run {args.run!r} in {folder}; {nearest(args.run, [path.name for path in runs])}")
    return folder / args.run


def verify(args: argparse.Namespace, show) -> int:
    """Replay a recorded live run and compare its decisions."""
    from engine.live.verify import verify as run

    result = run(find_run(args), args.data)
    show(args, result, verify_table(result), *first_difference(result))
    return 0 if result["identical"] else CheckFailed.exit_code


def verify_table(result: dict):
    """Return the findings of a verification for a person."""
    from engine.screen import make_table

    same = "the replay decides the same, byte for byte" if result["compared"] else "nothing was decided, and nothing in the replay"
    title = same if result["identical"] else "the replay decides OTHERWISE"
    found = make_table(f"Live run {result['run']}: {title}", "finding", "value")
    found.add_row("decisions compared", f"{result['compared']:,}")
    found.add_row("different", f"{result['different']:,}")
    found.add_row("positions a rule acted on", f"{result['acted_positions']:,}")
    for name, words in (("rule_effect_r", "what the rules were worth"), ("execution_effect_r", "what execution cost or gained")):
        value = result[name]
        found.add_row(words, "not known" if value is None else f"{value:+.3f} R")
    return found


def first_difference(result: dict) -> list[str]:
    """Return the first difference in words."""
    if not result["differences"]:
        return []
    first = result["differences"][0]
    lines = [f"first difference at seq {first['seq']}:"]
    one, two = first["recorded"] or {}, first["replayed"] or {}
    if not one or not two:
        lines.append(f"  {'live alone' if one else 'the replay alone'} decided: {json.dumps(one or two)}")
    else:
        lines += [f"  {name}: live {one[name]}, replay {two[name]}" for name in one if one[name] != two[name]]
    return lines


def switch(args: argparse.Namespace, show) -> int:
    """Give a rule of a running live run another mode."""
    from engine.live.commands import parse_switch, running, send

    run = find_run(args)
    rules = running(run)["rules"]
    for rule, _ in map(parse_switch, args.switches):       # all, before the first is sent
        if rule not in rules:
            raise BadInput(f"live run {run.name} has no rule {rule!r}; {nearest(rule, rules)}")
    answers = [send(run, {"switch": text}) for text in args.switches]
    show(args, {"answers": answers}, *(answer["said"] for answer in answers))
    return 0 if all(answer["ok"] for answer in answers) else CheckFailed.exit_code


def kill(args: argparse.Namespace, show) -> int:
    """Stop every action of live runs on this data root, or allow them again."""
    from engine.live.commands import is_used, kill_file

    path = kill_file(args.data).resolve()
    try:
        used, there = is_used(args.data), path.exists()
        if args.lift:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()               # nothing is written into it: that does even where the disk is full
    except OSError as error:
        raise SourceFailed(
            f"ORDERS STAY STOPPED: {path} cannot be taken away ({error.strerror})" if args.lift else
            f"ORDERS ARE NOT STOPPED: {path} cannot be written ({error.strerror}); press the Algo Trading button in the terminal, "
            "or name the data root of the run with --data") from None
    if args.lift:
        text = f"{path} is gone: orders may be sent again" if there else f"there was no {path}: nothing was stopped from here"
    elif used:
        text = f"{path} is there: no order is sent; broker-side stops stay"
    else:
        text = (f"NO ORDER WAS STOPPED: no live run uses {path.parents[1]} now; name the data root of the run with --data ({path} stays, "
                "and holds up a run that begins here until kill --lift)")
    show(args, {"killed": path.exists(), "path": str(path), "running": used}, text)
    return 0 if used or args.lift else CheckFailed.exit_code


def doctor(args: argparse.Namespace, show) -> int:
    """Find what a user can get wrong."""
    from engine import doctor, screen

    result = doctor.doctor(doctor.options_of(args), lambda text: print(text, file=sys.stderr))
    show(args, result, screen.doctor_table(result))
    return 0 if result["ok"] else CheckFailed.exit_code
