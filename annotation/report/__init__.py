"""One self-contained HTML page about an annotation.

The page holds everything it needs (scripts, data, styles), opens offline and is forbidden by its own content
security policy to ask any other machine for anything. Nothing is computed from the cells here: the caller hands over
plain arrays and tables.
"""

from annotation.report.annotation import Annotation
from annotation.report.page import render, write_report
from annotation.report.sections import doubts

__all__ = ["Annotation", "doubts", "render", "write_report"]
