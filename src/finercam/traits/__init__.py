"""Which traits tell two classes apart: evidence over many photos, grouped by the model's own features, as pages."""

from finercam.traits.job import Outcome, make_pages
from finercam.traits.request import Request
from finercam.traits.traits import Pair, Trait, compare

__all__ = ["Outcome", "Pair", "Request", "Trait", "compare", "make_pages"]
