"""Task files of the shipped models, and how their training cases were made.  Not installed."""
