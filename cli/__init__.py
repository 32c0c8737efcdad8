"""The command line: talks to the daemon over its socket and shows what it says."""
