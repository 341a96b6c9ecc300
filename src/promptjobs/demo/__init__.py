"""A sample task app with its tickets, and two small offline models that really read their prompts."""
