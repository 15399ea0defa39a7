"""Methods: how evidence under a contrast becomes a map."""

from finercam.methods.method import Method, get, names, register

from finercam.methods import attention  # isort: skip - puts its own methods after the common ones

__all__ = ["Method", "attention", "get", "names", "register"]
