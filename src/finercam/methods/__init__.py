"""Methods: how evidence under a contrast becomes a map."""

from finercam.methods.method import Method, get, names, register

__all__ = ["Method", "get", "names", "register"]
