"""The error that users read."""


class FlopsFitError(Exception):
    """Raised for bad input; the message names the key or file, the value, and what is allowed.

    The command line prints the message without a traceback and exits with status 2.
    """
