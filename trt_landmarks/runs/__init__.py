"""A batch run that survives: what is done is kept line by line, and a run that was cut off goes on from there."""
