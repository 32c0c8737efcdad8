"""Where to find it: announcing, providers and the book of peers."""
