"""Messages per second the recorder takes from a second process on loopback, plain and TLS, and what a message costs.

    python benchmarks/recording.py [--seconds 15] [--rate 20000] [--capture CAPTURE]

`flood` sends as fast as the recorder takes it, `paced` at a steady rate; `lost` is what is not in the journal.
With a capture its bytes a message, gzipped, stand beside those of the journal and of the session.
"""

import argparse
import asyncio
import gzip
import json
import platform
import tempfile
import time
from pathlib import Path

from frames import certified, started

from engine.record.convert import convert
from engine.record.recorder import Options, Recorder, open_journal
from engine.record.segment import FRAME, JournalReader
from engine.sim.exchange import MAX, Exchange, ExchangeConfig
from engine.sources.binance import Endpoint


async def record(options: Options, journal, seconds: float, pipe) -> tuple[Recorder, int, dict]:
    """Record so long; return the recorder, what was sent, and the figures of the middle of it."""
    recorder = Recorder(options, journal)
    task = asyncio.create_task(recorder.run())
    while len(recorder.groups[0].alive) + len(recorder.groups[1].alive) < 2:
        await asyncio.sleep(0.05)
    pipe.send("begin")
    await asyncio.sleep(2.0)
    frames, cpu_s, wall_s = recorder.counters.frames, time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    frames, cpu_s, wall_s = recorder.counters.frames - frames, time.process_time() - cpu_s, time.perf_counter() - wall_s
    pipe.send("stop")
    sent = await asyncio.to_thread(pipe.recv)
    before = -1
    while recorder.counters.frames > before:
        before = recorder.counters.frames
        await asyncio.sleep(0.5)
    recorder.stop()
    await task
    return (
        recorder,
        sent,
        {
            "messages_per_s": round(frames / wall_s),
            "cpu_us_per_message": round(cpu_s / max(1, frames) * 1e6, 2),
            "cpu_share_of_a_core": round(cpu_s / wall_s, 3),
            "slowest_take_ms": round(recorder.counters.slowest_take_ms, 2),
        },
    )


def delays_ms(folder: Path) -> tuple[dict, int, int]:
    """Return the delay from made to journaled, and how many messages and bytes of the market the journal holds."""
    delays, count, size = [], 0, 0
    for frame in JournalReader(folder):
        if frame.kind == FRAME and (at := frame.payload.rfind(b'"ns":')) > 0:
            count += 1
            size += len(frame.payload)
            if count % 50 == 0:
                delays.append(frame.recv_ns - int(frame.payload[at + 5 : -2]))
    delays.sort()
    pick = {
        name: round(delays[min(len(delays) - 1, int(len(delays) * share))] / 1e6, 3)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("most", 1.0))
    }
    return pick, count, size


def measured(seconds: float, rate: float | None, certificate: str) -> dict:
    """Record from a process of its own and hold the journal against what it sent."""
    server, here, endpoint, trust = started(rate, certificate)
    with tempfile.TemporaryDirectory() as folder:
        journal = open_journal(Path(folder), "load", disk_reserve_bytes=1 << 30)
        recorder, sent, figures = asyncio.run(record(Options(endpoint, ["BTCUSDT"], ssl=trust), journal, seconds, here))
        journal.close()
        here.send("end")
        server.join()
        delays, count, size = delays_ms(journal.folder)
        return {
            **figures,
            "sent": sent,
            "journaled": count,
            "lost": sent - count,
            "holes": recorder.counters.holes,
            "losses": recorder.counters.losses,
            "payload_bytes_per_message": round(size / count, 1),
            "journal_bytes_per_message": round(journal.bytes / count, 1),
            **({"delay_ms": delays} if rate else {}),
        }


def on_disk(capture: Path) -> dict:
    """Return the bytes a message of a real capture takes: gzipped as published, journaled, packed, as a session."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        async def work() -> None:
            async with Exchange(ExchangeConfig([capture], speed=MAX, start="call")) as exchange:
                recorder = Recorder(
                    Options(Endpoint(exchange.tape.venue, exchange.ws_url, exchange.rest_url), exchange.tape.symbols),
                    journal,
                )
                task = asyncio.create_task(recorder.run())
                while sum(bool(client.names) for client in exchange.clients) < len(recorder.groups):
                    await asyncio.sleep(0.01)
                exchange.begin()
                await exchange.finished.wait()
                await asyncio.sleep(1.0)
                recorder.stop()
                await task

        journal = open_journal(folder, "disk", disk_reserve_bytes=1 << 30)
        asyncio.run(work())
        journal.close()
        result = convert(journal.folder, folder, keep="zstd")
        frames, lines = result["frames"], sum(1 for _ in gzip.open(capture))
        used = {
            key: sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
            for key, place in (("session", result["path"]), ("packed_journal", result["journal"]))
        }
        return {
            "capture": capture.name,
            "messages": frames,
            "gzip_capture_bytes_per_message": round(capture.stat().st_size / lines, 1),
            "journal_bytes_per_message": round(journal.bytes / frames, 1),
            **{f"{key}_bytes_per_message": round(size / frames, 1) for key, size in used.items()},
        }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rate", type=float, default=20_000.0, help="of the paced runs, messages a second")
    parser.add_argument("--capture", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds = {"plain": "", "tls": certified(Path(folder))}
        result = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "seconds": args.seconds,
            "rate": args.rate,
        }
        for kind, certificate in kinds.items():
            if kind == "tls" and not certificate:
                result[kind] = "not measured: there is no openssl to make a certificate"
                continue
            result[kind] = {
                "flood": measured(args.seconds, None, certificate),
                "paced": measured(args.seconds, args.rate, certificate),
            }
    if args.capture:
        result["disk"] = on_disk(args.capture)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
