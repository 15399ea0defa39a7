"""The live report: one self-contained HTML file in which the question can be changed and the map answers at once."""

from finercam.report.report import write_report

__all__ = ["write_report"]
