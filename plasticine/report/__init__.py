"""What a translation or a registration writes, and how good it is."""

from plasticine.report.evaluation import (
    EVALUATION_FILES,
    evaluate,
    figures,
    table_of,
    write_evaluation,
)
from plasticine.report.jacobian import jacobian_files, print_jacobian, write_jacobian
from plasticine.report.page import draw_page
from plasticine.report.record import describe
from plasticine.report.registration_page import draw_registration
from plasticine.report.registration_results import (
    describe_registration,
    optional_files,
    print_registration,
    registration_files,
    write_registration,
)
from plasticine.report.result_folder import ResultFolder, read_results
from plasticine.report.results import OPTIONAL_FILES, RESULT_FILES, result_files, write_results
from plasticine.report.terminal import print_results

__all__ = [
    "EVALUATION_FILES",
    "OPTIONAL_FILES",
    "RESULT_FILES",
    "ResultFolder",
    "describe",
    "describe_registration",
    "draw_page",
    "draw_registration",
    "evaluate",
    "figures",
    "jacobian_files",
    "optional_files",
    "print_jacobian",
    "print_registration",
    "print_results",
    "read_results",
    "registration_files",
    "result_files",
    "table_of",
    "write_evaluation",
    "write_jacobian",
    "write_registration",
    "write_results",
]
