"""What is localized: the task file, and the graphs that a task needs."""
