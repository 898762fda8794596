"""Fill the templates of self-contained pages."""

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from flops_fit.notation import count_text, flops_text

SCRIPT = Path(__file__).with_name("page.js").read_text()  # the only one that a page may run
SCRIPT_HASH = f"sha256-{b64encode(sha256(SCRIPT.encode()).digest()).decode()}"


def fill(template: str, filters: dict[str, Callable[..., str]], **values: object) -> str:
    """Fill the ``template``, a file of this package, with ``values`` and return the page.

    ``filters`` are those of the template beside count and flops.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flops_fit.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(count=count_text, flops=flops_text, **filters)
    return environment.get_template(template).render(
        **values, script=SCRIPT, script_hash=SCRIPT_HASH
    )
