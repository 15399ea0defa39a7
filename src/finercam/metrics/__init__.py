"""Metrics of explanations: pure functions on batches, on the device of their input, with one value per picture.

Each docstring gives formula, range, direction, source and pitfalls; `docs/metrics.md` compares them. `__all__` names
the metrics. Chance levels, controls, fills and intervals are also attributes of this module.
"""

# ruff: noqa: F401
from finercam.metrics.adcc import Adcc, adcc, coherency
from finercam.metrics.bootstrap import (
    Interval,
    bootstrap,
    bootstrap_difference,
    bootstrap_ratio,
    bootstrap_statistic,
)
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
    equal_area_energy,
    mask_iou,
    mask_share,
    pointing,
    pointing_chance,
)
from finercam.metrics.parts import deciding_parts, keypoint_regions, part_evidence, part_evidence_chance
from finercam.metrics.perturb import masked_scores, pixel_counts, rank_pixels, read_scores
from finercam.metrics.ranks import mean_ranks, spearman
from finercam.metrics.rivals import held_out_rival, strongest_rival
from finercam.metrics.road import Road, road
from finercam.metrics.sanity import Cascade, random_logit, randomise_parameters
from finercam.metrics.shape import complexity, mean_intensity, sparseness

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    *("adcc", "average_precision", "coherency", "complexity", "contrastive", "deletion", "energy"),
    *("equal_area_energy", "insertion", "kept_confidence", "mask_iou", "mean_intensity", "part_evidence", "pointing"),
    *("random_logit", "randomise_parameters", "relative_drop", "road", "sparseness", "spearman"),
]
