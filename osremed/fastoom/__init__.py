"""The OOM guard: pressure -> rank -> plan a batch -> kill -> record. Acts alone, in milliseconds, on a local policy."""
