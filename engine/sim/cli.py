"""The command that simulates: an exchange that plays a capture, or a MetaTrader 5 terminal, each on loopback."""

import argparse
import contextlib
import json
import re
import sys
from pathlib import Path

from engine.arguments import pairs
from engine.errors import BadInput


def sim(args: argparse.Namespace) -> None:
    """Serve a capture as the exchange would, or a terminal."""
    if args.what == "terminal":
        return terminal(args)
    if not args.files:
        raise BadInput("sim exchange: name at least one capture file to replay")
    import asyncio

    from engine.sim.exchange import Exchange, ExchangeConfig
    from engine.sim.faults import read_script

    rates = {}
    for kind, rate in pairs(args.fault, "--fault", "KIND=PER_MINUTE, such as drop=2", upper=False).items():
        try:
            rates[kind] = float(rate)
        except ValueError:
            raise BadInput(f"--fault {kind}={rate}: {rate!r} is no number; write how often a minute, such as {kind}=2") from None
    faults = read_script(args.script) if args.script else []
    if rates:
        print(f"seed {args.seed}", file=sys.stderr)

    async def serve() -> None:
        config = ExchangeConfig(args.files, venue=args.venue, speed=args.speed, port=args.port, loop=args.loop, faults=faults,
                                seed=args.seed, rates=rates)
        async with Exchange(config) as exchange:
            print(json.dumps({"ws": exchange.ws_url, "rest": exchange.rest_url}), flush=True)
            await exchange.finished.wait()
            print("the capture is at its end: nothing more is sent; Ctrl-C ends", file=sys.stderr, flush=True)
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


def terminal(args: argparse.Namespace) -> None:
    """Serve a simulated MetaTrader 5 terminal."""
    from engine.gateway.terminal_server import serve_terminal
    from engine.gateway.terminal_settings import following

    if len(args.files) + bool(args.follow) != 1:
        raise BadInput("sim terminal: name one configuration file, or give --follow WS_URL for a demo account")
    if args.follow and not re.match("wss?://.", args.follow):
        raise BadInput(f"--follow {args.follow}: the address of a socket is right, such as ws://127.0.0.1:9000/public")
    config = following(args.follow) if args.follow else args.files[0]
    address = args.address or (Path("terminal.address.json") if args.follow else config.with_suffix(".address.json"))
    serve_terminal(
        config,
        address,
        lambda where: print(json.dumps(where), flush=True),
        port=args.port,
        note=lambda text: print(text, file=sys.stderr, flush=True),
    )
