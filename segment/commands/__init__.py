"""One file per command of `segment`; each imports what is heavy only when it runs."""
