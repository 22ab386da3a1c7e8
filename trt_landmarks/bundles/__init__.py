"""Exported models on disk: the bundle, its builds, and the choice of an engine for it."""
