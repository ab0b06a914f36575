"""Views of a Run: every table, chart and page is a pure function of run.json."""

from optimizer.report.headline import verdict_sentence
from optimizer.report.loads import loads
from optimizer.report.results import table
from optimizer.report.worst import worst_slice
from optimizer.report.write import append_summary, record, render

__all__ = ["append_summary", "loads", "record", "render", "table", "verdict_sentence", "worst_slice"]
