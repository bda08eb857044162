"""Stories that really happen, each in a place of its own, with a summary of what was measured."""
