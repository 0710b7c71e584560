"""Finds agents that nobody declared here, in the background and never for a message."""
