"""The MetaTrader5 module of a program whose simulated terminal is a process of its own, and the controls of that terminal."""

import json
import socket
import types
from collections.abc import Callable
from pathlib import Path

from engine.gateway.surface import Broken
from engine.gateway.terminal_module import build_module
from engine.gateway.terminal_session import Session
from engine.gateway.terminal_wire import HELLO_S, receive, send, unpacked


class Pipe:
    """A connection to the terminal process, known to it by the token of its address file."""

    def __init__(self, address: Path):
        """Connect; raise OSError or ValueError where no terminal of this address answers."""
        where = json.loads(address.read_text(encoding="utf-8"))
        self.socket = socket.create_connection(("127.0.0.1", int(where["port"])), timeout=HELLO_S)
        self.lines = self.socket.makefile("rb")
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            send(self.socket, {"token": where["token"]})
            self.pid = receive(self.lines)["pid"]
            self.socket.settimeout(None)           # as with the real one: a call waits for as long as it takes
        except BaseException:
            self.close()
            raise

    def exchange(self, message: dict) -> dict:
        """Return the answer to one message; raise Broken where the terminal ends before it."""
        try:
            send(self.socket, message)
        except OSError:
            raise Broken(-10001, cut=True) from None
        try:
            return receive(self.lines)
        except (OSError, ValueError):
            raise Broken(-10002, cut=True) from None

    def close(self) -> None:
        """Hang up."""
        self.lines.close()
        self.socket.close()


def reach(address: Path) -> Pipe | None:
    """Return a connection to the terminal of an address file, None where none answers."""
    try:
        return Pipe(address)
    except (OSError, ValueError, KeyError, TypeError):
        return None


class RemoteSession(Session):
    """A program that reaches the terminal process by its address file; it reconnects only at `initialize`."""

    def __init__(self, address: Path):
        super().__init__()
        self.address = address
        self.pipe: Pipe | None = None

    def open(self, login: int | None, password: str | None) -> None:
        """Connect and log in."""
        self.pipe = reach(self.address)
        if self.pipe is None:
            raise Broken(-10003)
        try:
            self.ask("initialize", (login, password))
        except Broken:
            self.close()
            raise

    def ask(self, name: str, args: tuple) -> object:
        """Return what the terminal answers."""
        reply = self.pipe.exchange({"call": name, "args": args})
        if "broken" in reply:
            raise Broken(*reply["broken"])
        return unpacked(reply["result"])

    def close(self) -> None:
        """Hang up."""
        super().close()
        if self.pipe is not None:
            self.pipe.close()
        self.pipe = None


def control_of(address: Path) -> Callable:
    """Return the controls of a terminal process: each use is a connection of its own, beside any call under way."""
    def control(name, *args):
        pipe = reach(address)
        if pipe is None:
            raise ValueError(f"no simulated terminal answers at {address}; start it with: tapeguard sim terminal")
        try:
            reply = pipe.exchange({"control": [name, *args]})
        except Broken:
            raise ValueError("the simulated terminal ended meanwhile; start it again") from None
        finally:
            pipe.close()
        if "refused" in reply:
            raise ValueError(reply["refused"])
        return reply["result"]
    return control


def load_client(address: str) -> tuple[types.ModuleType, Callable]:
    """Return the module of a terminal process, and its controls; neither needs it to run yet."""
    return build_module(RemoteSession(Path(address))), control_of(Path(address))
