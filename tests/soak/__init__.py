"""Random faults on real hosts under the whole system, from a seed; what must hold in the end."""
