"""Rules live in Git; only signed, linted and replayed rules go live."""
