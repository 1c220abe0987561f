"""A long recording of a simulated exchange that cuts every socket each minute; prints JSON, draws memory and counters.

    python benchmarks/soak.py CAPTURE... --minutes 20 --speed 5 --plot soak.svg

The captures are played over and over with their ids and times moved on, so that the ids go on rising; the seam between
two rounds is a hole in the ids, as after an outage of the venue.
"""

import argparse
import asyncio
import gc
import gzip
import json
import multiprocessing
import re
import sys
import tempfile
from pathlib import Path

from engine import clock
from engine.record.convert import convert
from engine.record.quality import check_session
from engine.record.recorder import Options, Recorder, open_journal
from engine.sim.exchange import Exchange, ExchangeConfig
from engine.sim.faults import Fault
from engine.sources.binance import Endpoint

CLOSINGS = ((1006, ""), (1001, "going away"), (1008, "Pong timeout"), (1012, "restart"))
SAMPLE_S = 5.0
_NUMBERS = re.compile(rb'"(t|a|f|l|u|U|pu|lastUpdateId|E|T)": ?(\d+)')
_IDS = (b"t", b"a", b"f", b"l"), (b"u", b"U", b"pu", b"lastUpdateId")


def lengthened(captures: list[Path], folder: Path, seconds: float) -> Path:
    """Write the captures one after another until they last so long; return the file."""
    lines = [line for path in captures for line in gzip.open(path, "rb")]
    stamps = [int(line.partition(b" ")[0]) for line in lines]
    unit_s = 1e-9 if stamps[0] > 10**17 else 1e-6
    span = stamps[-1] - stamps[0] + round(1 / unit_s)
    found = [match.groups() for line in lines for match in _NUMBERS.finditer(line)]
    steps = {b"E": span * unit_s * 1e3, b"T": span * unit_s * 1e3}
    for names in _IDS:
        values = [int(value) for name, value in found if name in names] or [0]
        steps |= dict.fromkeys(names, max(values) - min(values) + 100_000)
    target = folder / f"{captures[0].name.partition('_')[0]}_long.gz"
    with gzip.open(target, "wb", compresslevel=1) as file:
        for turn in range(int(seconds / (span * unit_s)) + 1):
            for stamp, line in zip(stamps, lines):
                moved = _NUMBERS.sub(
                    lambda m: b'"%s":%d' % (m[1], int(m[2]) + int(steps[m[1]] * turn)), line.partition(b" ")[2]
                )
                file.write(b"%d %s" % (stamp + span * turn, moved))
    return target


def serve(capture: Path, venue: str, speed: float, seconds: float, pipe) -> None:
    """Play the capture and cut every socket once a minute."""
    faults = [
        Fault(minute * 60 * speed, "close", code=code, reason=reason)
        for minute in range(1, int(seconds / 60))
        for code, reason in [CLOSINGS[minute % len(CLOSINGS)]]
    ]

    async def main() -> None:
        async with Exchange(ExchangeConfig([capture], venue=venue, speed=speed, faults=faults)) as exchange:
            pipe.send((exchange.ws_url, exchange.rest_url))
            await asyncio.to_thread(pipe.recv)
            pipe.send(dict(exchange.sent))

    asyncio.run(main())


def resident_mb() -> float | None:
    """Return the memory of this process, where the system tells it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
    except OSError:
        return None


async def record(options: Options, journal, seconds: float) -> tuple[Recorder, list[dict]]:
    """Record for so long and return what was sampled on the way."""
    recorder, samples = Recorder(options, journal), []
    task = asyncio.create_task(recorder.run())
    began_s = clock.monotonic_s()
    while (at_s := clock.monotonic_s() - began_s) < seconds and not task.done():
        status = recorder.status()
        samples.append(
            {
                "at_s": round(at_s, 1),
                "resident_mb": resident_mb(),
                "objects": len(gc.get_objects()),
                **{
                    name: status[name]
                    for name in ("kept", "duplicates", "holes", "losses", "connections", "snapshots", "not_synced")
                },
            }
        )
        await asyncio.sleep(SAMPLE_S)
    recorder.stop()
    await task
    return recorder, samples


def plot(samples: list[dict], path: Path) -> None:
    """Draw each counter over time in a panel of its own."""
    names = [name for name in samples[0] if name != "at_s" and samples[0][name] is not None]
    width, height, last_s = 900, 110, max(1.0, samples[-1]["at_s"])
    size = f'width="{width}" height="{height * len(names)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for row, name in enumerate(names):
        values = [sample[name] for sample in samples]
        most, foot = max(values), height * (row + 1) - 20
        points = " ".join(
            f"{40 + (width - 60) * sample['at_s'] / last_s:.1f},{foot - (height - 45) * value / (most or 1):.1f}"
            for sample, value in zip(samples, values)
        )
        parts.append(
            f'<text x="40" y="{height * row + 18}">{name}: last {values[-1]:,.0f}, most {most:,.0f}</text>'
            f'<polyline points="{points}" fill="none" stroke="#1f6fb4"/>'
        )
    path.write_text("\n".join([*parts, "</svg>"]), encoding="utf-8")


def main() -> None:
    """Run the soak and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", nargs="+", type=Path)
    parser.add_argument("--venue", default="usdm", choices=["usdm", "spot"])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--speed", type=float, default=5.0)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    seconds = args.minutes * 60
    symbol = args.captures[0].name.partition("_")[0].upper()
    with tempfile.TemporaryDirectory() as folder:
        capture = lengthened(args.captures, Path(folder), (seconds + 30) * args.speed)
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        server = context.Process(target=serve, args=(capture, args.venue, args.speed, seconds, there), daemon=True)
        server.start()
        endpoint = Endpoint(f"binance_{args.venue}", *here.recv())
        journal = open_journal(Path(folder), "soak", disk_reserve_bytes=1 << 30)
        print(f"recording for {args.minutes:.0f} minutes", file=sys.stderr)
        recorder, samples = asyncio.run(record(Options(endpoint, [symbol]), journal, seconds))
        journal.close()
        here.send("end")
        sent = here.recv()
        session = convert(journal.folder, Path(folder))
        checked = check_session(session["path"])
    if args.plot:
        plot(samples, args.plot)
    settled = [sample for sample in samples if sample["at_s"] >= seconds / 4] or samples
    print(
        json.dumps(
            {
                "minutes": args.minutes,
                "speed": args.speed,
                "sent": sum(sent.values()),
                "counters": vars(recorder.counters),
                "journal_bytes": recorder.journal.bytes,
                "resident_mb": {
                    "first": samples[0]["resident_mb"],
                    "quarter": settled[0]["resident_mb"],
                    "end": samples[-1]["resident_mb"],
                    "most": max(sample["resident_mb"] or 0 for sample in samples),
                },
                "objects": {"quarter": settled[0]["objects"], "end": samples[-1]["objects"]},
                "check": {
                    "ok": checked["ok"],
                    "problems": checked["problems"],
                    "gaps": len(checked["sequence"]["gaps"]),
                    "book": checked["book"],
                    "coverage": checked["coverage"],
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
