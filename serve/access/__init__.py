"""Who may ask, and how much: keys, budgets over all replicas, and retries that cost nothing."""
