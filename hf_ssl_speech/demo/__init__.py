"""Speech made on the spot, for a first run without data."""
