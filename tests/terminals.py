"""Simulated terminals for tests: one served by a thread of the test over real sockets, and one that is a process of its own."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.gateway.terminal import SimulatedTerminal
from engine.gateway.terminal_client import load_client
from engine.gateway.terminal_server import TerminalServer, write_address

START_S = 60
CONFIG = {"symbols": [{"name": "BTCUSD"}], "quotes": [["BTCUSD", 6_000_000, 6_000_100]],
          "positions": [{"symbol": "BTCUSD", "side": 0, "lots": 1.0, "sl": 59_000.0, "tp": 61_000.0}]}


@contextmanager
def served(terminal: SimulatedTerminal, folder: Path) -> Iterator:
    """Yield the module of a terminal, reached over a socket."""
    server, ended = TerminalServer(terminal), threading.Event()
    thread = threading.Thread(target=server.serve, args=(ended.is_set,))
    thread.start()
    write_address(folder / "address.json", server.port, server.token)
    module, _ = load_client(str(folder / "address.json"))
    try:
        yield module
    finally:
        module.shutdown()
        ended.set()
        socket.create_connection(("127.0.0.1", server.port)).close()
        thread.join()
        server.close()


class Terminal:
    """A terminal process started by the command line."""

    def __init__(self, folder: Path, *arguments: str, **config):
        self.folder, self.address = folder, folder / "address.json"
        self.arguments = arguments
        if not arguments:
            (folder / "terminal.json").write_text(json.dumps(CONFIG | config), encoding="utf-8")
            self.arguments = (str(folder / "terminal.json"),)
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> dict:
        """Start it, and return what it prints."""
        self.process = subprocess.Popen([sys.executable, "-m", "engine.cli", "sim", "terminal", *self.arguments, "--address", str(self.address)],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        ready = os.name != "posix" or select.select([self.process.stdout], [], [], START_S)[0]
        self.said = self.process.stdout.readline() if ready else ""
        if not self.said:
            self.end(kill=True)
            raise AssertionError(f"the terminal did not start: {self.complained}")
        return json.loads(self.said)

    def end(self, kill: bool = False) -> None:
        """Interrupt it as Ctrl-C does, or kill it."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGINT)
        try:
            _, self.complained = self.process.communicate(timeout=START_S)
        finally:
            self.process.kill()
        self.code, self.process = self.process.returncode, None

    def module(self):
        """Return the module of another program, and the controls."""
        return load_client(str(self.address))


@contextmanager
def running(folder: Path, *arguments: str, **config) -> Iterator[Terminal]:
    """Yield a terminal process that is ended in any case."""
    terminal = Terminal(folder, *arguments, **config)
    try:
        yield terminal
    finally:
        terminal.end(kill=True)
