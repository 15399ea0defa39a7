"""Measures of an explanation: pure, batched, on the device of what they are given. One value a picture.

Formulas, ranges, directions, sources and traps are in each docstring, and side by side in `docs/metrics.md`.
"""

from finercam.metrics.adcc import Adcc, adcc, coherency
from finercam.metrics.bootstrap import Interval, bootstrap, bootstrap_difference, bootstrap_ratio
from finercam.metrics.confidence import KeptConfidence, RelativeDrop, kept_confidence, relative_drop
from finercam.metrics.contrastive import contrastive, contrastive_chance, regions
from finercam.metrics.controls import gaussian_map, random_map, shuffled_map, uniform_map
from finercam.metrics.deletion import Curves, area, deletion, insertion
from finercam.metrics.fill import Fill, as_fill, black, blur, mean_colour, road_fill, zero
from finercam.metrics.impute import impute
from finercam.metrics.localisation import (
    average_precision,
    average_precision_chance,
    box_masks,
    box_share,
    energy,
    mask_iou,
    mask_share,
    pointing,
    pointing_chance,
)
from finercam.metrics.perturb import masked_scores, pixel_counts, rank_pixels, read_scores
from finercam.metrics.rivals import held_out_rival, strongest_rival
from finercam.metrics.road import Road, road
from finercam.metrics.sanity import Cascade, random_logit, randomise_parameters, spearman
from finercam.metrics.shape import complexity, mean_intensity, sparseness

__all__ = [
    "Adcc",
    "Cascade",
    "Curves",
    "Fill",
    "Interval",
    "KeptConfidence",
    "RelativeDrop",
    "Road",
    "adcc",
    "area",
    "as_fill",
    "average_precision",
    "average_precision_chance",
    "black",
    "blur",
    "bootstrap",
    "bootstrap_difference",
    "bootstrap_ratio",
    "box_masks",
    "box_share",
    "coherency",
    "complexity",
    "contrastive",
    "contrastive_chance",
    "deletion",
    "energy",
    "gaussian_map",
    "held_out_rival",
    "impute",
    "insertion",
    "kept_confidence",
    "mask_iou",
    "mask_share",
    "masked_scores",
    "mean_colour",
    "mean_intensity",
    "pixel_counts",
    "pointing",
    "pointing_chance",
    "random_logit",
    "random_map",
    "randomise_parameters",
    "rank_pixels",
    "read_scores",
    "regions",
    "relative_drop",
    "road",
    "road_fill",
    "shuffled_map",
    "sparseness",
    "spearman",
    "strongest_rival",
    "uniform_map",
    "zero",
]
