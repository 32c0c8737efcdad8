"""What a signed statement allows: versions, statuses and freshness, decided without clock or disk."""
