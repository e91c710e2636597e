"""The command line: arguments, screen, signals, exit codes."""
