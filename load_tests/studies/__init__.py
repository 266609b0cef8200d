"""Studies of what monitoring finds, and of the start: each measures once and keeps its result beside the others."""
