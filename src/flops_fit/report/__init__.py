"""The answer as one self-contained HTML page, and as a Markdown table.

Every number on the page comes from `flops_fit.fit` or the records; the modules here choose words and
places, a section's worth each, and ``page`` puts them into the template.
"""

from flops_fit.report.answer import default_budgets
from flops_fit.report.page import report_page
from flops_fit.report.table import markdown_table

__all__ = ["default_budgets", "markdown_table", "report_page"]
