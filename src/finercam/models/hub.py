"""Fetching weights: a hub that cannot be reached is one sentence, and soon; nothing fetched may run code."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import getproxies

from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["fetching"]

PATIENCE = 5.0
"""Seconds that a hub has to answer."""

_NETWORK = ("ConnectError", "ConnectTimeout", "ReadTimeout", "OfflineModeIsEnabled", "LocalEntryNotFoundError")
_UNKNOWN = (
    "RepositoryNotFoundError",
    "GatedRepoError",
    "EntryNotFoundError",
    "RevisionNotFoundError",
    "HFValidationError",
)


@contextmanager
def fetching(text: str) -> Iterator[None]:
    """Load a model that may need the network; whatever goes wrong becomes one FinerCAMError naming `text`.

    The libraries retry for up to a minute: here the hub is tried once, and if it does not answer they are held to
    their caches. Pickled weights are read with `weights_only`, whatever a library asks for.
    """
    with ExitStack() as stack:
        reachable = _hub_answers()
        stack.enter_context(mock.patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}))
        if not reachable:
            stack.enter_context(_offline())
        timeout = socket.getdefaulttimeout()
        stack.callback(socket.setdefaulttimeout, timeout)
        socket.setdefaulttimeout(timeout or 2 * PATIENCE)
        try:
            yield
        except FinerCAMError:
            raise
        except Exception as error:
            raise FinerCAMError(f"model {text!r}: {_reason(error, reachable)}") from error


def _hub_answers() -> bool:
    try:
        from huggingface_hub import constants
    except ImportError:
        return True  # no library that would retry
    if constants.HF_HUB_OFFLINE:
        return False
    target = urlsplit(getproxies().get(urlsplit(constants.ENDPOINT).scheme) or constants.ENDPOINT)
    port = target.port or (80 if target.scheme == "http" else 443)
    try:
        socket.create_connection((target.hostname or "", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


@contextmanager
def _offline() -> Iterator[None]:
    """Hold the hub's client to its cache, and the libraries from telling about it at length."""
    from huggingface_hub import constants

    loggers = [logging.getLogger(name) for name in ("", "huggingface_hub", "transformers", "timm", "open_clip")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with mock.patch.object(constants, "HF_HUB_OFFLINE", True):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException, reachable: bool) -> str:
    chain = list(_causes(error))
    kinds = {type(link).__name__ for link in chain}
    if "UnpicklingError" in kinds:
        return "its weights are a pickle that holds more than tensors, which is refused; use safetensors"
    if kinds & set(_UNKNOWN) and reachable:
        return "the hub has no such model, or asks for a login to give it"
    # An OSError of its own is a missing file; one of the sockets says that nobody answered.
    sockets = any(isinstance(link, URLError | ConnectionError | TimeoutError | socket.gaierror) for link in chain)
    if (
        sockets
        or kinds & set(_NETWORK)
        or (not reachable and kinds & {"OSError", "RuntimeError"} and _fetched(chain))
    ):
        return "its weights are not on this machine and the hub that has them cannot be reached; connect, or give a local folder"
    return one_line(error)


def _fetched(chain: list[BaseException]) -> bool:
    said = " ".join(str(link) for link in chain).lower()
    return any(word in said for word in ("connect", "offline", "download", "cached"))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
