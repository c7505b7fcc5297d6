"""The error for mistakes of the user. Its message is one line and says what to do."""


class InputError(ValueError):
    """Bad input (a shape, a value, a name, a file); the command line prints its message and exits with 2."""
