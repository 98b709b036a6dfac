"""Statistics of comparisons, from records alone."""
