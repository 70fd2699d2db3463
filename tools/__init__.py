"""What builds the data and the embedded model, and what is timed; the workbook runs without."""

from erase_lib.sweep.ending import one_line

__all__ = ["one_line"]
