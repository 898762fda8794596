"""Sphinx settings of the site: `make docs` builds it from the Markdown pages of this repository.

The repository is the source folder, since pages link to files all over it; only the pages named
here are read.
"""

project = "flops-fit"
root_doc = "docs/index"
include_patterns = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md"),
    *("docs/*.md", "config/README.md", "results/README.md"),
]
extensions = ["myst_parser"]
myst_heading_anchors = 4  # the anchors that links name, as GitHub makes them
suppress_warnings = ["myst.header"]  # a page may go from # to ###, as the config's does
highlight_language = "none"  # commands and what they print stand in fences without a language
html_theme = "furo"
html_title = "flops-fit"
html_extra_path = ["site"]  # index.html, which leads to docs/index.html
html_static_path = ["static"]
html_js_files = [("access.js", {"defer": "defer"})]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
