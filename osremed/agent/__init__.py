"""The on-host process: ships spooled events, takes unconfirmed changes back, answers collect and probe."""
