"""The unix socket between the daemon and the command line."""
