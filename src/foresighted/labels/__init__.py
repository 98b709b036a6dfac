"""Labels: who is asked which of two responses is better, and what becomes of the answer."""
