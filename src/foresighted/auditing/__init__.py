"""Whether, when and how a loop collapsed, from its records or from logs of loops that never heard of us."""
