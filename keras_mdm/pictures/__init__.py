"""Pictures and clips as arrays: scaled, put on white, laid out, played, written."""
