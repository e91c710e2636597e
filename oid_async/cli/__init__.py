"""The command line: arguments, commands, signals, exit codes."""
