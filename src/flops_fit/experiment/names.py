"""The ids of experiments, as people read them."""

import re
import unicodedata

LONGEST_NAME = 180  # characters of an id before its hash; file systems allow 255 with what is added
LONGEST_PART = 40  # of one that is longer


def tokens_text(tokens: float) -> str:
    """The part of an id that names D, such as ``D1.5e6`` for 1500000 ``tokens``."""
    return "D" + f"{tokens:.3g}".replace("e+0", "e").replace("e+", "e")


def readable_id(parts: list[str], digest: str) -> str:
    """An id of ``parts`` for people, which ends in the first characters of the hash ``digest``.

    It names files: letters beyond ASCII lose their accents or become underscores, and parts of an id
    that would be longer than a file name are cut. The hash keeps such ids apart.
    """
    if sum(map(len, parts)) > LONGEST_NAME:
        parts = [part[:LONGEST_PART] for part in parts]
    plain = unicodedata.normalize("NFKD", "-".join(parts))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return f"{re.sub(r'[^A-Za-z0-9._+-]+', '_', plain)}-{digest[:8]}"
