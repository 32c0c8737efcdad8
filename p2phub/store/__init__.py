"""Disk: chunks that are verified before they are written and again when they are served."""
