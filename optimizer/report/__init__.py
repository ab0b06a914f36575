"""Views of a Run: every table, chart and page is a pure function of run.json."""

from optimizer.report.headline import verdict_sentence
from optimizer.report.loads import loads
from optimizer.report.results import table
from optimizer.report.worst import worst_slice
from optimizer.report.write import record, render

__all__ = ["loads", "record", "render", "table", "verdict_sentence", "worst_slice"]
