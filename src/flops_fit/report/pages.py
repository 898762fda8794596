"""Fill the templates of self-contained pages."""

from collections.abc import Callable

from flops_fit.notation import count_text, flops_text


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
    return environment.get_template(template).render(**values)
