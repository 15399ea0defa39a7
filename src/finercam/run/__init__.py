"""A whole dataset on one machine or many, as sharded Parquet that answers further questions without the model."""

from finercam.run.cluster import Cluster
from finercam.run.job import Options, explain_dataset
from finercam.run.outcome import Outcome
from finercam.run.reader import Part, Run, open_run
from finercam.run.settings import Request

__all__ = ["Cluster", "Options", "Outcome", "Part", "Request", "Run", "explain_dataset", "open_run"]
