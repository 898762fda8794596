"""The one error that users are meant to read."""


class FlopsFitError(Exception):
    """Bad input: the message names the key or file, the value, and what is allowed.

    Command lines print it alone, without a traceback, and exit with status 2.
    """
