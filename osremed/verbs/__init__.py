"""The one table of verbs, and what finds the function of one."""
