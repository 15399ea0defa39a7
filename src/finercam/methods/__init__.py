"""Methods: how evidence under a contrast becomes a map."""

from finercam.methods.method import Method, get, is_linear, names, register

from finercam.methods import attention  # isort: skip - puts its own methods after the common ones

__all__ = ["Method", "attention", "get", "is_linear", "names", "register"]
