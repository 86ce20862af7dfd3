"""API keys, sample budgets that hold over all replicas, and free retries."""
