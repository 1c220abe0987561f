"""Exchange simulators for tests: one in the test's own loop, read to its end, and one in a thread of its own."""

import asyncio
import gzip
import itertools
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from engine.sim.exchange import MAX, Exchange, ExchangeConfig

WAIT_S = 20


def dial(exchange: Exchange, path: str, **options) -> connect:
    """Return a connection to a path of an exchange, without limits that would get in a test's way."""
    return connect(exchange.ws_url + path, **{"compression": None, "max_queue": None, "max_size": None, "ping_interval": None, "close_timeout": 0.1} | options)


async def drained(socket: ClientConnection, into: list[bytes] | None = None) -> tuple[list[bytes], int, str]:
    """Return every frame until the socket closes, with the code and reason it closed with."""
    got = [] if into is None else into
    try:
        while True:
            got.append(await asyncio.wait_for(socket.recv(decode=False), WAIT_S))
    except ConnectionClosed:
        return got, socket.close_code, socket.close_reason


def capture_config(capture: Path, **options) -> ExchangeConfig:
    """Return a configuration that plays at full speed once `begin` is called."""
    return ExchangeConfig([capture], **{"speed": MAX, "start": "call"} | options)


async def read_all(exchange: Exchange, *paths: str) -> list[list[bytes]]:
    """Connect to paths, play the tape and return what each socket got."""
    sockets = [await dial(exchange, path) for path in paths]
    readers = [asyncio.create_task(drained(socket)) for socket in sockets]
    exchange.begin()
    await asyncio.wait_for(exchange.finished.wait(), WAIT_S)
    for client in exchange.clients:
        client.close(1000, "")
    return [(await reader)[0] for reader in readers]


def played(config: ExchangeConfig, *paths: str) -> list[list[bytes]]:
    """Run an exchange from begin to end and return what sockets at these paths got."""
    async def main() -> list[list[bytes]]:
        async with Exchange(config) as exchange:
            return await read_all(exchange, *paths)

    return asyncio.run(main())


def with_exchange(config: ExchangeConfig, work: Callable[[Exchange], Awaitable]) -> object:
    """Run something with an exchange that is up."""
    async def main() -> object:
        async with Exchange(config) as exchange:
            return await asyncio.wait_for(work(exchange), WAIT_S)

    return asyncio.run(main())


def recorded(capture: Path) -> list[tuple[int, str, bytes]]:
    """Return (receive time, stream, frame) of capture lines as they stand in the file; a depth body has stream ''."""
    lines = gzip.decompress(capture.read_bytes()).splitlines()
    rows = [line.partition(b" ")[::2] for line in lines]
    return [(int(stamp), json.loads(frame).get("stream", ""), frame) for stamp, frame in rows]


def beginning(capture: Path, lines: int, folder: Path) -> Path:
    """Write the first lines of a capture to a folder."""
    with gzip.open(capture) as file:
        head = b"".join(itertools.islice(file, lines))
    path = folder / f"{capture.parent.name}-{lines}.gz"
    path.write_bytes(gzip.compress(head, 1))
    return path


def of_streams(rows: Sequence[tuple[int, str, bytes]], *kinds: str) -> list[bytes]:
    """Return the recorded frames of these kinds of stream, in order."""
    return [frame for _, stream, frame in rows if stream.partition("@")[2] in kinds]


@contextmanager
def running(config: ExchangeConfig) -> Iterator[tuple[Exchange, Callable]]:
    """Yield an exchange that serves from a thread, and a function that calls something there and returns the result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    exchange = Exchange(config)

    def wait(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    async def do(function, *args):
        return function(*args)

    try:
        wait(exchange.__aenter__())
        try:
            yield exchange, lambda function, *args: wait(do(function, *args))
        finally:
            wait(exchange.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def get(exchange: Exchange, path: str, **headers: str) -> tuple[int, dict[str, str], object]:
    """Return status, headers and decoded body of a REST request."""
    request = urllib.request.Request(exchange.rest_url + path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return answer.status, dict(answer.headers), json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), json.loads(error.read())


async def asked(exchange: Exchange, path: str, **headers: str) -> tuple[int, dict[str, str], object]:
    """Return the same from within the exchange's own loop."""
    return await asyncio.to_thread(get, exchange, path, **headers)
