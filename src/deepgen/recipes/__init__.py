"""Complete configurations with names: anything run twice lives here."""
