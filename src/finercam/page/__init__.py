"""A static page that runs an exported graph in the visitor's browser."""

from finercam.page.write import write_page

__all__ = ["write_page"]
