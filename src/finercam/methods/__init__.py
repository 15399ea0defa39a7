"""Methods: how evidence under a contrast becomes a map."""

from finercam.methods.method import Method, get, names, register

from finercam.methods import (  # isort: skip - after the common ones
    legrad, shapley, recipro, smoothgrad, smoothscore, segeigen, fullgrad, classfree, attention,
)  # fmt: skip

__all__ = ["Method", "attention", "classfree", "fullgrad", "get", "legrad", "names", "recipro", "register"]
__all__ += ["segeigen", "shapley", "smoothgrad", "smoothscore"]
