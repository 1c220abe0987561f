"""Messages per second the recorder takes from a second process on loopback, plain and TLS, and what a message costs.

    python benchmarks/recording.py [--seconds 15] [--rate 20000] [--capture CAPTURE]

`flood` sends as fast as the recorder takes it, `paced` at a steady rate; `lost` is what is not in the journal.
With a capture its bytes a message, gzipped, stand beside those of the journal and of the session.
"""

import argparse
import asyncio
import gzip
import json
import multiprocessing
import platform
import shutil
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.http11 import Response

from engine.record.convert import convert
from engine.record.recorder import Options, Recorder, open_journal
from engine.record.segment import FRAME, JournalReader
from engine.sim.exchange import MAX, Exchange, ExchangeConfig
from engine.sim.sockets import frame_head
from engine.sources.binance import Endpoint

HOST = "127.0.0.1"
BEST = (
    b'{"stream":"btcusdt@bookTicker","data":{"e":"bookTicker","u":%d,"s":"BTCUSDT",'
    b'"b":"60000.10","B":"3.120","a":"60000.20","A":"0.740",'
    b'"T":1795000000000,"E":1795000000001,"ns":%d}}'
)
TRADE = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1795000000001,"T":1795000000000,"s":"BTCUSDT","t":%d,'
    b'"p":"60000.10","q":"0.125",'
    b'"X":"MARKET","m":true,"ns":%d}}'
)
LEVELS = b",".join(b'["%d.10","%d.%03d"]' % (59_990 - n, n % 7, n * 37 % 1000) for n in range(14))
DIFF = (
    b'{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1795000000001,"T":1795000000000,"s":"BTCUSDT",'
    b'"U":%d,"u":%d,"pu":%d,'
    b'"b":[' + LEVELS + b'],"a":[' + LEVELS.replace(b'["59', b'["60') + b'],"ns":%d}}'
)
MARK = (
    b'{"stream":"btcusdt@markPrice@1s","data":{"e":"markPriceUpdate","E":%d,"s":"BTCUSDT",'
    b'"p":"60000.10","i":"60000.00","r":"0.00010000",'
    b'"T":1795017600000}}'
)
BLOCK = 20  # 14 best quotes, 5 trades, 1 diff of 28 levels
FLOW_BYTES = 1 << 20


class Source:
    """A server that makes frames whose ids go on without end."""

    def __init__(self, rate: float | None):
        self.rate, self.update_id, self.trade_id, self.sent = rate, 9_000_000_000, 5_000_000_000, 0
        self.stop, self.began = asyncio.Event(), asyncio.Event()

    def block(self) -> bytes:
        """Return BLOCK frames."""
        now_ns, u, parts = time.time_ns(), self.update_id, []
        for n in range(14):
            parts.append(BEST % (u + n + 1, now_ns))
        for n in range(5):
            parts.append(TRADE % (self.trade_id + n + 1, now_ns))
        parts.append(DIFF % (u + 1, u + 14, u, now_ns))
        self.update_id, self.trade_id, self.sent = u + 14, self.trade_id + 5, self.sent + BLOCK
        return b"".join(frame_head(len(frame)) + frame for frame in parts)

    async def socket(self, socket) -> None:
        """Send to one client: marks on its path, everything else on the other."""
        if "markPrice" in socket.request.path:
            while not self.stop.is_set():
                payload = MARK % (time.time_ns() // 1_000_000)
                socket.transport.write(frame_head(len(payload)) + payload)
                await asyncio.sleep(1.0)
        else:
            await self.began.wait()
            began_s, transport = time.perf_counter(), socket.transport
            while not self.stop.is_set():
                due = BLOCK * 50 if self.rate is None else int((time.perf_counter() - began_s) * self.rate) - self.sent
                for _ in range(due // BLOCK):
                    transport.write(self.block())
                while transport.get_write_buffer_size() > FLOW_BYTES:
                    await asyncio.sleep(0.0005)
                await asyncio.sleep(0 if self.rate is None else 0.002)
        await socket.wait_closed()

    def answer(self, _connection, request) -> Response | None:
        """Answer REST, and let sockets pass."""
        name = request.path.partition("?")[0].rpartition("/")[2]
        if name == "stream":
            return None
        filters = [{"filterType": "PRICE_FILTER", "tickSize": "0.10"}, {"filterType": "LOT_SIZE", "stepSize": "0.001"}]
        body = {
            "exchangeInfo": {"symbols": [{"symbol": "BTCUSDT", "filters": filters}]},
            "time": {"serverTime": time.time_ns() // 1_000_000},
            "depth": {"lastUpdateId": self.update_id, "bids": [["60000.10", "3.120"]], "asks": [["60000.20", "0.740"]]},
        }[name]
        content = json.dumps(body).encode()
        return Response(200, "OK", Headers({"Content-Length": str(len(content)), "Connection": "close"}), content)


def serve_frames(rate: float | None, certificate: str, pipe) -> None:
    """Run the source until told to stop."""

    async def main() -> None:
        source = Source(rate)
        context = None
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(f"{certificate}/cert.pem", f"{certificate}/key.pem")
        options = dict(compression=None, process_request=source.answer, ping_interval=None, close_timeout=1)
        async with (
            serve(source.socket, HOST, 0, ssl=context, **options) as sockets,
            serve(source.socket, HOST, 0, **options) as rest,
        ):
            pipe.send([server.sockets[0].getsockname()[1] for server in (sockets, rest)])
            await asyncio.to_thread(pipe.recv)
            source.began.set()
            await asyncio.to_thread(pipe.recv)
            source.stop.set()
            await asyncio.sleep(0.5)
            pipe.send(source.sent)
            await asyncio.to_thread(pipe.recv)

    asyncio.run(main())


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
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve_frames, args=(rate, certificate, there), daemon=True)
    server.start()
    sockets, rest = here.recv()
    endpoint = Endpoint("binance_usdm", f"{'wss' if certificate else 'ws'}://{HOST}:{sockets}", f"http://{HOST}:{rest}")
    trust = ssl.create_default_context(cafile=f"{certificate}/cert.pem") if certificate else None
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


def certified(folder: Path) -> str:
    """Make a certificate for the loopback address; empty where openssl is not at hand."""
    if not shutil.which("openssl"):
        return ""
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            folder / "key.pem",
            "-out",
            folder / "cert.pem",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    return str(folder)


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
