"""What trackers and trainers keep of a run: metrics, a number a name and step."""
