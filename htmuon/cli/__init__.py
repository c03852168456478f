"""The command line: compare, train, list."""
