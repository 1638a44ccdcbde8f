"""Credentials: used by this process, and kept out of configs, stores, logs and messages.

Values of ``storage.options`` from the command line or a file are replaced by
``${secret:storage.options.key}`` before anything is composed. Only this process knows them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from cubie_flow.errors import FlowError

if TYPE_CHECKING:  # opening a result does not need omegaconf
    from omegaconf import DictConfig

OPTIONS, URL, HIDDEN = "storage.options", "storage.url", "***"
#: Options whose values are public; the values of all others are hidden.
HARMLESS = frozenset(
    (
        "anon", "endpoint_url", "endpoint", "region", "region_name", "aws_endpoint", "aws_region",
        "allow_http", "aws_allow_http", "virtual_hosted_style_request", "force_path_style",
        "skip_signature", "requester_pays", "use_ssl", "verify", "host", "port", "project",
        "account_name", "timeout", "connect_timeout", "from_env",
    )
)  # fmt: skip
_SECRET_NAME = re.compile(r"(SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIALS?|ACCESS_KEY(_ID)?|API_KEY)$")
_USER_INFO = re.compile(r"([A-Za-z][\w+.-]*://)[^/\s'\"]*@")
_QUERY = re.compile(r"([A-Za-z][\w+.-]*://[^\s'\"?]*\?)[^\s'\"]*")
_REFERENCE = re.compile(r"\$\{secret:[^{}]*\}")
#: Hidden values by key.
_values: dict[str, Any] = {}


def hidden_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with credentials replaced by references.

    Raises
    ------
    FlowError
        If ``storage.url`` holds credentials, or ``storage.options`` cannot be read.
    """
    safe = []
    for word in words:
        key, sign, text = word.partition("=")
        name = key.lstrip("+")
        if sign and name == URL:
            refuse_credentials(text)
        if sign and name == OPTIONS:
            if text.strip() not in ("", "null", "{}"):
                safe += _flattened(_read(text), OPTIONS)
                continue
        elif sign and name.startswith(f"{OPTIONS}."):
            word = f"+{name}={_hidden(name, _scalar(text), text)}"
        safe.append(word)
    return safe


def hide(config: DictConfig) -> None:
    """Replace credentials from a config file by references, in a composed config."""
    from omegaconf import DictConfig, OmegaConf

    options = OmegaConf.select(config, OPTIONS, throw_on_missing=False)
    if isinstance(options, DictConfig):
        _hide(options, OPTIONS)


def as_given(words: Any) -> list[str]:
    """Return the overrides that Hydra recorded, unresolved."""
    from omegaconf import OmegaConf

    return list(OmegaConf.to_container(words, resolve=False))  # type: ignore[arg-type]


def register() -> None:
    """Register the resolver of ``${secret:key}`` with OmegaConf."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("secret", _look_up, replace=True)


def remember(options: Mapping[str, Any], key: str = OPTIONS) -> None:
    """Record the values of options, so that `redacted` removes them from texts."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            remember(value, f"{key}.{name}")
        elif not _public(str(name), value):
            _values[f"{key}.{name}"] = value


def redacted(text: str) -> str:
    """Return a text without the credentials of options, of the environment and of URLs."""
    text = _QUERY.sub(rf"\1{HIDDEN}", _USER_INFO.sub(rf"\1{HIDDEN}@", text))
    known = {str(value) for value in _values.values()}
    known |= {v for n, v in os.environ.items() if _SECRET_NAME.search(n.upper()) and len(v) >= 8}
    for value in sorted(known, key=len, reverse=True):
        # Values of one or two letters occur in ordinary words.
        if len(value) > 2:
            text = text.replace(value, HIDDEN)
    return text


def shown(word: str) -> str:
    """Return a word of a command line as it may be shown, its credentials replaced."""
    return redacted(_REFERENCE.sub(HIDDEN, word))


def refuse_credentials(url: str) -> None:
    """Refuse a URL with a user, a password or a query; the message does not repeat them.

    Raises
    ------
    FlowError
        If the URL has one of them.
    """
    if _USER_INFO.search(url) or (_QUERY.search(url) and "://" in url):
        raise FlowError(
            f"{URL}={redacted(url)} holds a user, a password or a signature, which others would "
            f"see; give credentials by the environment or {OPTIONS}"
        )


def _look_up(key: str) -> Any:
    if key not in _values:
        raise FlowError(
            f"{key} was given as a value, which is not stored; give it again, or write "
            f"{key}=${{oc.env:NAME}} to read it from the environment"
        )
    return _values[key]


def _public(name: str, value: Any) -> bool:
    """Return whether the value of an option may be shown."""
    return name in HARMLESS or value is None or isinstance(value, bool)


def _hidden(key: str, value: Any, text: str) -> str:
    """Return the reference to the value of an option, or `text` if the value is public."""
    if "${" in text or _public(key.rpartition(".")[2], value):
        return text
    _values[key] = value
    return f"${{secret:{key}}}"


def _scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, dict | list) else value


def _read(text: str) -> dict[str, Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        value = OverridesParser.create().parse_override(f"a={text}").value()
    except Exception:
        value = None
    if not isinstance(value, dict):
        # The text may be secret, and the message of the parser repeats it.
        raise FlowError(f"{OPTIONS} must be a mapping, such as {{anon: true}}, or null") from None
    return value


def _flattened(options: Mapping[str, Any], key: str) -> list[str]:
    words = []
    for name, value in options.items():
        where = f"{key}.{name}"
        if isinstance(value, Mapping):
            words += _flattened(value, where)
        else:
            text = "null" if value is None else str(value)
            words.append(f"+{where}={_hidden(where, value, text)}")
    return words


def _hide(options: DictConfig, key: str) -> None:
    from omegaconf import DictConfig, OmegaConf

    for name in list(options):
        if OmegaConf.is_interpolation(options, name):
            continue
        value, where = options[name], f"{key}.{name}"
        if isinstance(value, DictConfig):
            _hide(value, where)
        else:
            options[name] = _hidden(where, value, "") or value
