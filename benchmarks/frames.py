"""A process that makes frames of a venue, at a steady rate or as fast as they are taken; for the benchmarks of the live side."""

import asyncio
import json
import multiprocessing
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.http11 import Response

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
    """A server that makes frames whose ids go on without end; `burst` of them at the least are sent at once."""

    def __init__(self, rate: float | None, burst: int = BLOCK):
        self.rate, self.burst, self.update_id, self.trade_id, self.sent = rate, burst, 9_000_000_000, 5_000_000_000, 0
        self.frames = self.endless()
        self.stop, self.began = asyncio.Event(), asyncio.Event()

    def endless(self) -> Iterator[bytes]:
        """Yield frames, BLOCK after BLOCK."""
        while True:
            u, t = self.update_id, self.trade_id
            for n in range(14):
                self.update_id = u + n + 1
                yield BEST % (u + n + 1, time.time_ns())
            for n in range(5):
                self.trade_id = t + n + 1
                yield TRADE % (t + n + 1, time.time_ns())
            yield DIFF % (u + 1, u + 14, u, time.time_ns())

    def make(self, count: int) -> bytes:
        """Return so many frames as they go over the wire."""
        self.sent += count
        return b"".join(frame_head(len(frame)) + frame for frame in islice(self.frames, count))

    async def socket(self, socket) -> None:
        """Send to one client: marks on its path, everything else on the other."""
        if "markPrice" in socket.request.path:
            while not self.stop.is_set() and not socket.transport.is_closing():
                payload = MARK % (time.time_ns() // 1_000_000)
                socket.transport.write(frame_head(len(payload)) + payload)
                await asyncio.sleep(1.0)
        else:
            await self.began.wait()
            began_s, transport = time.perf_counter(), socket.transport
            while not self.stop.is_set() and not socket.transport.is_closing():
                due = BLOCK * 50 if self.rate is None else int((time.perf_counter() - began_s) * self.rate) - self.sent
                for _ in range(due // self.burst):
                    transport.write(self.make(self.burst))
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


def serve_frames(rate: float | None, certificate: str, pipe, burst: int) -> None:
    """Run the source until told to stop."""

    async def main() -> None:
        source = Source(rate, burst)
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


def started(rate: float | None, certificate: str, burst: int = BLOCK) -> tuple:
    """Start the source as a process; return it, the pipe that steers it, where it is, and what to trust."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve_frames, args=(rate, certificate, there, burst), daemon=True)
    server.start()
    sockets, rest = here.recv()
    endpoint = Endpoint("binance_usdm", f"{'wss' if certificate else 'ws'}://{HOST}:{sockets}", f"http://{HOST}:{rest}")
    trust = ssl.create_default_context(cafile=f"{certificate}/cert.pem") if certificate else None
    return server, here, endpoint, trust
