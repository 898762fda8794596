"""The answer as a self-contained HTML page and as a Markdown table.

Every number on the page comes from `flops_fit.fit` or from the records. Each module here prepares the
texts of one section, and ``page`` fills them into the template.
"""
