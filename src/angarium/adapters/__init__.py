"""Which store, wire and channel the settings name, opened. Only these files know them all.

What one machine does not need is imported when it is asked for: MongoDB's and Redis' drivers
come with the extra `cluster`.
"""
