"""Confidence that means something: what a localization's own signs say of its error, learnt from validation scans."""
