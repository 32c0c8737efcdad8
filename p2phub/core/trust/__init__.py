"""What a signed statement allows: versions, statuses, freshness; no clock and no disk."""
