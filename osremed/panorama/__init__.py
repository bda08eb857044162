"""Who holds the memory: a balance that closes, processes by heap, page cache by file, and the gaps by name."""
