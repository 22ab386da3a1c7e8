"""Settings of the documentation (Sphinx): ``make docs`` builds it into docs/_build/html, offline."""

from trt_landmarks import __version__

project = "trt-landmarks"
author = "trt-landmarks authors"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"trt-landmarks {version}"
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_rtype = False
# Links into the source tree are for readers of the repository; the site shows them as they are.
suppress_warnings = ["myst.xref_missing"]
