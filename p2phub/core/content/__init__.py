"""What the bytes are: cutting, ranges and the digests of objects."""
