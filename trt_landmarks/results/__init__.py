"""Results of localization: cases, the predictions file, measurements, metrics and evaluation."""
