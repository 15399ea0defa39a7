"""Fetching weights: a hub that cannot be reached gives one sentence quickly, and nothing fetched may run code."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import getproxies

from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["fetching"]

TIMEOUT = 5.0
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

    The libraries retry for up to a minute. Here the hub is tried once, and if it does not answer they are restricted
    to their caches. Pickled weights are read with `weights_only`, whatever a library requests.
    """
    reachable = _hub_answers()
    timeout, before = socket.getdefaulttimeout(), os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    try:
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        socket.setdefaulttimeout(timeout or 2 * TIMEOUT)
        with nullcontext() if reachable else _offline():
            yield
    except FinerCAMError:
        raise
    except Exception as error:
        raise FinerCAMError(f"model {text!r}: {_reason(error, reachable)}") from error
    finally:
        socket.setdefaulttimeout(timeout)
        os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD", None)
        if before is not None:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


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
        socket.create_connection((target.hostname or "", port), timeout=TIMEOUT).close()
    except OSError:
        return False
    return True


@contextmanager
def _offline() -> Iterator[None]:
    """Restrict the hub's client to its cache, and silence the libraries' long reports about it."""
    from huggingface_hub import constants

    loggers = [logging.getLogger(name) for name in ("", "huggingface_hub", "transformers", "timm", "open_clip")]
    levels = [logger.level for logger in loggers]
    offline = constants.HF_HUB_OFFLINE
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        constants.HF_HUB_OFFLINE = True
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException, reachable: bool) -> str:
    chain = list(_causes(error))
    kinds = {type(link).__name__ for link in chain}
    if "UnpicklingError" in kinds:
        return "its weights are a pickle that holds more than tensors, which is refused; use safetensors"
    if kinds & set(_UNKNOWN) and reachable:
        return "the hub has no such model, or requires a login for it"
    # A plain OSError is a missing file; one of these says that no server answered.
    sockets = any(isinstance(link, URLError | ConnectionError | TimeoutError | socket.gaierror) for link in chain)
    offline = not reachable and kinds & {"OSError", "RuntimeError"} and _mentions_download(chain)
    if sockets or kinds & set(_NETWORK) or offline:
        return "its weights are not on this machine and the hub that has them cannot be reached; connect, or give a local folder"
    return one_line(error)


def _mentions_download(chain: list[BaseException]) -> bool:
    text = " ".join(str(link) for link in chain).lower()
    return any(word in text for word in ("connect", "offline", "download", "cached"))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
