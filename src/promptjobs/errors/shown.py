"""How much of what a client has sent a message repeats."""

MAX_SHOWN = 100
"""Characters of a name or an id: enough to recognise it, and nobody can make answers or logs long by it."""
