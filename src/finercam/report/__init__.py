"""The live report: one self-contained HTML file in which the reader can change the question and see the new map."""

from finercam.report.report import write_report

__all__ = ["write_report"]
