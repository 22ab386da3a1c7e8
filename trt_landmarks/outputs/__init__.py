"""Results in the forms that people use: tables, 3D Slicer's files, pictures and a page to read."""
