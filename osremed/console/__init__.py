"""HTTP, MCP and pages over the table of verbs."""
