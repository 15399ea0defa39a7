"""Explanations as files, one format a module."""
