"""What a translation writes: volumes, the page of pictures and the record."""

from plasticine.report.page import draw_page
from plasticine.report.record import describe
from plasticine.report.results import RESULT_FILES, write_results

__all__ = ["RESULT_FILES", "describe", "draw_page", "write_results"]
