"""What every page of this package is made of: its own files, safe JSON, and hashes for its content policy."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterator
from importlib import resources
from typing import Any

from finercam.errors import FinerCAMError

__all__ = ["asset", "render", "safe_json"]


def asset(name: str, package: str = "finercam.report") -> str:
    """The text of a file of a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def safe_json(data: Any) -> str:
    """JSON in ASCII that cannot close the script element around it.

    >>> safe_json(["</script>"])
    '["\\\\u003c/script\\\\u003e"]'
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def render(template: str, style: str, script: str, **values: Any) -> Iterator[str]:
    """A page in parts, with all values escaped; only this style and this script may act in it.

    Raises FinerCAMError if jinja2 is missing.
    """
    try:
        import jinja2
    except ModuleNotFoundError:
        raise FinerCAMError("pages need jinja2: pip install 'finercam[report]'") from None
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).generate(
        style=style, script=script, style_hash=_hash(style), script_hash=_hash(script), **values
    )


def _hash(content: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
