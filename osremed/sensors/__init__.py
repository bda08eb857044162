"""The only doors to the kernel and drivers. Each takes a root, so a captured tree can stand in for a live host."""
