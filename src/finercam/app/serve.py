"""The server: on this machine alone unless told otherwise, with a folder of its own that goes when it goes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["is_local", "serving"]

SESSIONS = 32
"""Visitors whose pictures are kept at a time; a picture is at most 96 MB decoded."""


@contextmanager
def serving(host: str = "127.0.0.1", port: int | None = None, models: Sequence[str] = ()) -> Iterator[str]:
    """Serve the app while the block runs, and give its address. `port` None takes a free one from 7860 on.

    Nothing is fetched from outside, reported to anyone or shared. Uploaded files are deleted once they are read, and
    all other files when the server stops. Raises FinerCAMError where gradio is not installed or the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="finercam-app-", ignore_cleanup_errors=True) as folder:
        quiet = {"GRADIO_TEMP_DIR": str(Path(folder) / "cache"), "GRADIO_ANALYTICS_ENABLED": "False"}
        quiet |= {"HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_ALLOWED_PATHS": "", "GRADIO_ROOT_PATH": ""}
        with _environment(quiet):
            try:
                from finercam.app.page import MAX_BYTES, Page, asset, theme
            except ModuleNotFoundError as error:
                if error.name != "gradio":
                    raise
                raise FinerCAMError("the web app needs gradio: pip install 'finercam[app]'") from None
            page = Page(models, is_local(host), Path(folder))
            try:
                _, address, _ = page.blocks.queue(default_concurrency_limit=2, api_open=False).launch(
                    server_name=host, server_port=port, share=False, inbrowser=False, prevent_thread_lock=True,
                    quiet=True, max_file_size=MAX_BYTES, state_session_capacity=SESSIONS, enable_monitoring=False,
                    ssr_mode=False, mcp_server=False, pwa=False, run_history=False, footer_links=[],
                    theme=theme(), css=asset("style.css"), allowed_paths=[],
                )  # fmt: skip
            except OSError as error:
                raise FinerCAMError(f"no server at {host}:{port or '7860…'}: {one_line(error)}") from error
            try:
                yield address
            finally:
                page.blocks.close(verbose=False)


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server bound to that host.

    >>> is_local("127.0.0.1"), is_local("localhost"), is_local("0.0.0.0"), is_local("example")
    (True, True, False, False)
    """
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
