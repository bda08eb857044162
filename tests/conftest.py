"""Settings of every test."""

from hypothesis import HealthCheck, settings

# Two noisy cores make any input slow to draw once in a while: that says nothing about the code under test.
settings.register_profile("noisy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("noisy")
