"""Fuzzing: what finercam does with bytes and arguments that nobody meant. See README.md."""
