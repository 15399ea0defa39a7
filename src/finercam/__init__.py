"""finercam."""
