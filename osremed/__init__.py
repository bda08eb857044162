"""osremed: near-OOM protection, evidence and verified, reversible remediation for Linux fleets."""

__version__ = "0.1.0"
