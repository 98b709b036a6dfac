"""The command line: one file a subcommand, parsing and printing only."""
