"""The front door: one file a subcommand, each with the function that the command line calls, and its result."""
