"""A monitor of metrics for any engine: TRL, verl, OpenRLHF, or a loop of one's own."""
