"""Calibrated confidence: predicts each landmark's error from features available at inference; fitted here."""
