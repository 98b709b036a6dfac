"""Directories of runs and the rows in them: claimed, locked, written by one rename, appended to, cut back, read."""
