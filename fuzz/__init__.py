"""Fuzzing: finercam with random bytes and arguments. See README.md."""
