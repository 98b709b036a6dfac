"""The loop on language models: rounds, the follower, held-out answers, checkpoints, comparisons of arms."""
