"""The answer as one self-contained HTML page, and as a Markdown table.

Every number on the page comes from `flops_fit.fit` or the records; the modules here choose words and
places, a section's worth each, and ``page`` puts them into the template.
"""
