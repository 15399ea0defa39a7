"""Trains the built-in models and draws the pages of the Fieldguide. It belongs to the repository, not to the package."""
