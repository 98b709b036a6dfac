"""Answers of policies, judged in pairs and in both orders: judges, win rates, capability checks."""
