"""The command line: one small module per command. Nothing heavy is imported before a command runs."""
