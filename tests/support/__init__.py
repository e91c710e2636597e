"""What tests share: a small published dataset, servers that follow a script, saved folders, a fast clock."""
