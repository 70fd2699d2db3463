"""What builds the data and the embedded model, and what is timed; the workbook runs without."""
