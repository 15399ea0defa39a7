"""Methods: how evidence under a contrast becomes a map."""

from finercam.methods.method import Method, get, names, register

from finercam.methods import legrad, shapley, recipro, smoothgrad, attention  # isort: skip - after the common ones

__all__ = ["Method", "attention", "get", "legrad", "names", "recipro", "register", "shapley", "smoothgrad"]
