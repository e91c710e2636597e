"""What is of POSIX or Linux alone, each in one place, with the next best thing for a system that does not have it."""
