"""One self-contained HTML page about an annotation, and the marker genes it shows.

The page holds everything it needs (plotly.js, data, styles), opens offline and is forbidden by its own content
security policy to ask any other machine for anything. Nothing is computed from the cells here but their marker genes:
the caller hands over plain arrays and tables.
"""

from annotation.report.annotation import Annotation
from annotation.report.markers import marker_dots, marker_genes
from annotation.report.page import render, write_report

__all__ = ["Annotation", "marker_dots", "marker_genes", "render", "write_report"]
