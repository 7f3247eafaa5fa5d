"""Ablations: settings x seeds trained, evaluated and compared. deepfuse ablate is the command."""

from .plan import Cell, Plan, load_plan
from .records import read_record
from .report import write_report
from .runner import CellRunner

__all__ = ["Cell", "CellRunner", "Plan", "load_plan", "read_record", "write_report"]
