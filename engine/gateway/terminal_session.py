"""One program's side of the terminal: its end of the pipe, and its last error, as each process has with the module."""

from engine.gateway.surface import ERROR_TEXTS, Broken

SUCCESS = (1, ERROR_TEXTS[1])


class Session:
    """Calls go through an open pipe and leave a last error; how the pipe is made is for those below."""

    def __init__(self):
        self.pipe_open, self.error = False, SUCCESS

    def call(self, name: str, *args, failed: object = None) -> object:
        """Run one call as the module does: the pipe first, then what the terminal answers."""
        try:
            if not self.pipe_open:
                raise Broken(-10004)
            result = self.ask(name, args)
        except Broken as broken:
            return self._fail(broken, failed)
        self.error = SUCCESS
        return result

    def connect(self, login: int | None, password: str | None) -> bool:
        """Open the pipe anew."""
        self.close()
        try:
            self.open(login, password)
        except Broken as broken:
            return self._fail(broken, False)
        self.pipe_open, self.error = True, SUCCESS
        return True

    def disconnect(self) -> bool:
        """Close the pipe, as asked."""
        self.close()
        self.error = SUCCESS
        return True

    def refuse(self, text: str, failed: object = None) -> object:
        """End a call whose arguments are wrong, before the pipe is looked at."""
        self.error = -2, text
        return failed

    def _fail(self, broken: Broken, failed: object) -> object:
        if broken.cut:
            self.close()
        self.error = broken.code, broken.text
        return failed

    def open(self, login: int | None, password: str | None) -> None:
        """Make the pipe and log in; raise Broken where that fails."""
        raise NotImplementedError

    def ask(self, name: str, args: tuple) -> object:
        """Return what the terminal answers; raise Broken where it does not."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the pipe."""
        self.pipe_open = False


class LocalSession(Session):
    """A program in the terminal's own process."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def open(self, login: int | None, password: str | None) -> None:
        """Log in."""
        self.terminal.log_in(login, password)

    def ask(self, name: str, args: tuple) -> object:
        """Return what the terminal answers."""
        return self.terminal.answer(name, args)
