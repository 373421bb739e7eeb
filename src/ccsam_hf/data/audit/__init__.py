"""Checks of a data set before it is used: duplicates, leakage between splits, wrong masks, burnt-in marks."""

from .auditing import audit_cases
from .findings import AuditReport, Finding, images_to_remove, write_report

__all__ = ["AuditReport", "Finding", "audit_cases", "images_to_remove", "write_report"]
