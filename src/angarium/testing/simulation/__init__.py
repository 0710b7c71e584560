"""Seeded simulation: the product's own code on a virtual clock, among faults, then judged."""
