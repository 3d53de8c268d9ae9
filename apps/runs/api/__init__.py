"""REST: runs, their nodes, attempts, logs and outputs."""
