"""The server: on this machine alone by default, with a temporary folder for its files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from socket import gethostname
from typing import Any
from urllib.parse import urlsplit

from finercam.errors import FinerCAMError
from finercam.io import scratch_folder

__all__ = ["OwnAddress", "is_local", "serving"]

SCRATCH = "finercam-app-"
SESSIONS = 32
"""Visitors whose pictures are kept at a time; a picture is at most 96 MB decoded."""


@contextmanager
def serving(
    host: str = "127.0.0.1", port: int | None = None, models: Sequence[str] = (), photos: Sequence[Path] = ()
) -> Iterator[str]:
    """Serve the app while the block runs, and give its address. `port` None takes a free one from 7860 on.

    `models` are offered before the built-in ones and `photos` before the built-in pictures. Nothing is fetched from
    outside, reported to anyone or shared. Uploaded files are deleted once they are read, and all other files when the
    server stops, or when the next one starts if it was killed. Only requests that name this server's own address are answered, see `OwnAddress`.

    Raises FinerCAMError where gradio is not installed, a model or photo cannot be read, or the port is in use.
    """
    with scratch_folder(SCRATCH) as folder:
        quiet = {"GRADIO_TEMP_DIR": str(folder / "cache"), "GRADIO_ANALYTICS_ENABLED": "False"}
        quiet |= {"HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_ALLOWED_PATHS": "", "GRADIO_ROOT_PATH": ""}
        with _environment(quiet):
            try:
                from finercam.app.opened import open_model
                from finercam.app.page import MAX_BYTES, Page, asset, theme
                from finercam.app.views import ramp_styles
            except ModuleNotFoundError as error:
                if error.name != "gradio":
                    raise
                raise FinerCAMError("the web app needs gradio: pip install 'finercam[app]'") from None
            for model in models:
                open_model(model)  # a wrong name is an error of the command, and not a page without an answer
            page = Page(models, is_local(host), folder, photos)
            try:
                server, address, _ = page.blocks.queue(default_concurrency_limit=2, api_open=False).launch(
                    server_name=host, server_port=port, share=False, inbrowser=False, prevent_thread_lock=True,
                    quiet=True, max_file_size=MAX_BYTES, state_session_capacity=SESSIONS, enable_monitoring=False,
                    ssr_mode=False, mcp_server=False, pwa=False, run_history=False, footer_links=[],
                    theme=theme(), css=asset("style.css") + ramp_styles(), allowed_paths=[],
                )  # fmt: skip
            except OSError as error:
                raise FinerCAMError(
                    f"no server at {host}:{port or '7860…7959'}: the address is not this machine's, or the port is in use; "
                    "give another one with --port"
                ) from error
            server.middleware_stack = OwnAddress(server.middleware_stack, host)
            try:
                yield address
            finally:
                page.blocks.close(verbose=False)


class OwnAddress:
    """ASGI middleware that refuses requests under another name than the server's own, and from other sites' pages.

    Without it a page of another site could reach the server under a name of its own (DNS rebinding), or one that is
    served at another port of this machine could read answers. A server that others can reach is also known by the
    machine's name and by its numeric addresses.
    """

    def __init__(self, app: Any, host: str) -> None:
        self.app, self.host = app, host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope.get("headers", ())}
        if scope["type"] not in ("http", "websocket") or self.allows(headers.get("host", ""), headers.get("origin")):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            plain = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 403, "headers": plain})
            await send({"type": "http.response.body", "body": b"This server answers under its own address only."})

    def allows(self, host: str, origin: str | None) -> bool:
        """Whether a request with these headers is answered.

        >>> own = OwnAddress(None, "127.0.0.1")
        >>> own.allows("127.0.0.1:7860", None), own.allows("localhost:7860", "http://localhost:7860")
        (True, True)
        >>> own.allows("evil.example:7860", None), own.allows("127.0.0.1:7860", "http://127.0.0.1:9000")
        (False, False)
        """
        name = urlsplit(f"//{host}").hostname or ""
        if not is_local(self.host):
            known = is_local(name) or name in (self.host, gethostname().lower()) or _is_address(name)
        else:
            known = is_local(name)
        return known and (origin is None or urlsplit(origin).netloc == host)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


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
