"""A page on which people label pairs: what they say goes into the queue that a run reads."""
