"""The simulated terminal as a process of its own, as the real one is: any number of programs connect and go, it stays.

Each connection is one program and has a thread; what may take time in a call takes it outside the lock of the books.
"""

import hmac
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from engine.errors import BadInput, SourceFailed
from engine.gateway.surface import Broken
from engine.gateway.terminal import SimulatedTerminal
from engine.gateway.terminal_client import reach
from engine.gateway.terminal_config import build, controls
from engine.gateway.terminal_follow import Feed
from engine.gateway.terminal_settings import read_settings
from engine.gateway.terminal_wire import HELLO_S, MAX_LINE_BYTES, packed, receive, send

LOOK_S = 0.5                       # a wait for clients ends this often, so that Ctrl-C is seen on every system


class TerminalServer:
    """Serves one terminal on loopback to those who know the token."""

    def __init__(self, terminal: SimulatedTerminal, port: int = 0):
        self.terminal, self.control = terminal, controls(terminal)
        self.token = secrets.token_hex(32)
        self.clients: set[socket.socket] = set()
        terminal.on_restart = self.hang_up
        try:
            self.listener = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise SourceFailed(f"port {port} of 127.0.0.1 cannot be opened ({error.strerror or error})") from None
        self.listener.settimeout(LOOK_S)
        self.port = self.listener.getsockname()[1]

    def serve(self, ending: Callable[[], bool] = lambda: False) -> None:
        """Take clients until told to end."""
        while not ending():
            try:
                client, _ = self.listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve_client, args=(client,), daemon=True).start()

    def _serve_client(self, client: socket.socket) -> None:
        self.clients.add(client)
        try:
            with client, client.makefile("rb") as lines:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.settimeout(HELLO_S)
                token = str(receive(lines, MAX_LINE_BYTES).get("token", ""))
                if not hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode()):
                    return
                client.settimeout(None)
                send(client, {"ok": True, "pid": os.getpid()})
                while True:
                    send(client, self._reply(receive(lines, MAX_LINE_BYTES), client))
        except (OSError, ValueError):
            return                     # gone, cut off, or no client of ours
        finally:
            self.clients.discard(client)

    def _reply(self, message: dict, client: socket.socket) -> dict:
        if "control" in message:
            try:
                return {"result": self.control(*message["control"])}
            except (TypeError, ValueError, KeyError) as error:
                return {"refused": f"{error}"}

        def until_gone():
            client.recv(1)             # who waits for an answer says nothing
            raise ConnectionResetError
        try:
            if message["call"] == "initialize":
                return {"result": self.terminal.log_in(*message["args"])}
            return {"result": packed(self.terminal.answer(message["call"], message["args"], until_gone))}
        except Broken as broken:
            return {"broken": [broken.code, broken.text, broken.cut]}

    def hang_up(self) -> None:
        """Cut every client off, as a terminal does that ends or restarts."""
        for client in list(self.clients):
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        """Stop listening and cut every client off."""
        self.listener.close()
        self.hang_up()


def write_address(path: Path, port: int, token: str) -> None:
    """Write where the terminal is reached, whole or not at all, for nobody else to read."""
    aside = path.with_name(path.name + ".aside")
    try:
        aside.unlink(missing_ok=True)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump({"port": port, "token": token, "pid": os.getpid()}, file)
        os.replace(aside, path)
    except OSError as error:
        raise BadInput(f"{path}: the address cannot be written there ({error.strerror}); choose another with --address") from None


def serve_terminal(config: Path | dict, address: Path, say: Callable[[dict], None], *, port: int = 0,
                   note: Callable[[str], None] = lambda text: None, ending: Callable[[], bool] = lambda: False) -> None:
    """Serve a configured terminal until Ctrl-C or `ending`; `say` is told once where it is, `note` what its feed does."""
    settings, follows = read_settings(config)
    other = reach(address)
    if other is not None:
        other.close()
        raise BadInput(f"{address}: a terminal is served there already by process {other.pid}; end it, or give another --address")
    terminal = build(settings)
    server = TerminalServer(terminal, port)
    feed = Feed(terminal, follows, note)
    try:
        write_address(address, server.port, server.token)
        feed.start()
        say({"port": server.port, "pid": os.getpid(), "address": str(address)})
        server.serve(ending)
    except KeyboardInterrupt:
        return
    finally:
        feed.stop()
        server.close()
        if server.token in (address.read_text(encoding="utf-8") if address.exists() else ""):
            address.unlink()
