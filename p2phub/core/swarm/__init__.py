"""How to get it: availability, picking, downloads, uploads and limits."""
