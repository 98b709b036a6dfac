"""The loop on language models: policy, reward model, labels, sampling, selection, rounds, resume."""
