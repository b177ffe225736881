"""The interactive report: one file of HTML that holds the images, φ and φ⁻¹."""

from plasticine.report.viewer.page import REPORT_FILE, report_files, write_report
from plasticine.report.viewer.reading import is_case, read_case

__all__ = ["REPORT_FILE", "is_case", "read_case", "report_files", "write_report"]
