"""From a scan to landmarks in mm: the two stages, and how far to trust what they find."""
