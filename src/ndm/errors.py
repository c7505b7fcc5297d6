"""The error for mistakes of the user. Its message is one line and says what to do."""


class InputError(ValueError):
    """Bad input (a shape, a value, a name, a file); the command line prints its message and exits with 2."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(str(message)))


def printable(text: str) -> str:
    """Text on one line: line breaks and all other characters that do not print are escaped, as in ``"a\\\\nb"``.

    Names of files may hold such characters. Without this, a name could forge a second message or steer the terminal.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
