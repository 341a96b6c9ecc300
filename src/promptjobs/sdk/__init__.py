"""The Python client: it knows the service by its HTTP API alone, and imports nothing of it but the errors."""
