"""Runbooks: the schema, the expressions, the guards, the state machine of a run. Knows neither Prefect nor Ansible."""
