"""What a translation writes, volumes, the page of pictures and the record, and how good it is."""

from plasticine.report.evaluation import (
    EVALUATION_FILES,
    evaluate,
    figures,
    table_of,
    write_evaluation,
)
from plasticine.report.page import draw_page
from plasticine.report.record import describe
from plasticine.report.result_folder import ResultFolder, read_results
from plasticine.report.results import RESULT_FILES, write_results
from plasticine.report.terminal import print_results

__all__ = [
    "EVALUATION_FILES",
    "RESULT_FILES",
    "ResultFolder",
    "describe",
    "draw_page",
    "evaluate",
    "figures",
    "print_results",
    "read_results",
    "table_of",
    "write_evaluation",
    "write_results",
]
