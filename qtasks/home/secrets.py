"""What an app signs its tasks with, and all that must not leave in an error."""

from __future__ import annotations

from pathlib import Path

from qtasks.home.keys import keys_path, load_or_make_keys
from qtasks.home.remote import check_remote
from qtasks.home.shared import check_shared
from qtasks.ids import Ids
from qtasks.settings import HomeKind, Settings


def signing_secrets(settings: Settings, path: Path | None, ids: Ids) -> tuple[str, ...]:
    """Give the secrets that sign envelopes: those that are set, or the one made beside the file at `path`.

    Raises `ConfigurationError` where a broker that others share needs them set.
    """
    if path is None:
        check = check_shared if settings.home is HomeKind.POSTGRES else check_remote
        check(settings)
    if settings.secrets or path is None:
        return settings.secrets
    return (load_or_make_keys(keys_path(path), ids).secret,)


def all_secrets(settings: Settings, path: Path | None, ids: Ids) -> tuple[str, ...]:
    """Give everything that must not be shown, the embedded broker's own token and keys included."""
    told = (*settings.secrets, *settings.signing_keys, *settings.regional_keys, settings.token or "")
    if path is None:
        return told
    keys = load_or_make_keys(keys_path(path), ids)
    return (*told, keys.token, keys.current, keys.next, keys.secret)
