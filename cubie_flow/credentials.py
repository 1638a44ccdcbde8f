"""Credentials are used and never kept: not in a config, a store, a log or an error text.

What the command line or a file says of ``storage.options`` is taken out before anything is
composed, and ``${secret:storage.options.key}`` stands in its place. The value is known to this
process alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from cubie_flow.errors import FlowError

if TYPE_CHECKING:  # whoever only opens a result does without it
    from omegaconf import DictConfig

OPTIONS, URL, HIDDEN = "storage.options", "storage.url", "***"
#: Options that may be read by anybody; the value of every other one is hidden.
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
# Value by key: of this process, and gone with it.
_values: dict[str, Any] = {}


def hidden_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line without the credentials that they hold.

    Raises
    ------
    FlowError
        If ``storage.url`` holds credentials, or ``storage.options`` cannot be read.
    """
    found = []
    for word in words:
        key, sign, text = word.partition("=")
        name = key.lstrip("+")
        if sign and name == URL:
            refuse_credentials(text)
        if sign and name == OPTIONS:
            if text.strip() not in ("", "null", "{}"):
                found += _flattened(_read(text), OPTIONS)
                continue
        elif sign and name.startswith(f"{OPTIONS}."):
            word = f"+{name}={_hidden(name, _scalar(text), text)}"
        found.append(word)
    return found


def hide(config: DictConfig) -> None:
    """Take the credentials that a file gave out of a composed config."""
    from omegaconf import DictConfig, OmegaConf

    options = OmegaConf.select(config, OPTIONS, throw_on_missing=False)
    if isinstance(options, DictConfig):
        _hide(options, OPTIONS)


def as_given(words: Any) -> list[str]:
    """Return the overrides that Hydra kept, with nothing in them resolved."""
    from omegaconf import OmegaConf

    return list(OmegaConf.to_container(words, resolve=False))  # type: ignore[arg-type]


def register() -> None:
    """Make ``${secret:key}`` mean the value that was taken out."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("secret", _look_up, replace=True)


def remember(options: Mapping[str, Any], key: str = OPTIONS) -> None:
    """Note the values of options, wherever they come from, so that `redacted` knows them."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            remember(value, f"{key}.{name}")
        elif not _open(str(name), value):
            _values[f"{key}.{name}"] = value


def redacted(text: str) -> str:
    """Return a text without credentials: those of options, of the environment and of URLs."""
    text = _QUERY.sub(rf"\1{HIDDEN}", _USER_INFO.sub(rf"\1{HIDDEN}@", text))
    known = {str(value) for value in _values.values()}
    known |= {v for n, v in os.environ.items() if _SECRET_NAME.search(n.upper()) and len(v) >= 8}
    for value in sorted(known, key=len, reverse=True):
        # A word of one or two letters would be found everywhere.
        if len(value) > 2:
            text = text.replace(value, HIDDEN)
    return text


def refuse_credentials(url: str) -> None:
    """Refuse a URL with a user, a password or a query, without repeating it.

    Raises
    ------
    FlowError
        If there is one.
    """
    if _USER_INFO.search(url) or (_QUERY.search(url) and "://" in url):
        raise FlowError(
            f"{URL}={redacted(url)} holds a user, a password or a signature, which would be seen "
            f"by others; give credentials by the environment or {OPTIONS}"
        )


def _look_up(key: str) -> Any:
    if key not in _values:
        raise FlowError(
            f"{key} was given as a value, which is kept nowhere; give it again, or write "
            f"{key}=${{oc.env:NAME}} to have it read from the environment"
        )
    return _values[key]


def _open(name: str, value: Any) -> bool:
    """Whether an option may be seen."""
    return name in HARMLESS or value is None or isinstance(value, bool)


def _hidden(key: str, value: Any, text: str) -> str:
    """Return what stands for an option: itself where it may be seen."""
    if "${" in text or _open(key.rpartition(".")[2], value):
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
        # Neither the text nor the parser's complaint, which repeats it, can be shown.
        raise FlowError(f"{OPTIONS} must be a mapping, such as {{anon: true}}, or null") from None
    return value


def _flattened(options: Mapping[str, Any], key: str) -> list[str]:
    found = []
    for name, value in options.items():
        where = f"{key}.{name}"
        if isinstance(value, Mapping):
            found += _flattened(value, where)
        else:
            text = "null" if value is None else str(value)
            found.append(f"+{where}={_hidden(where, value, text)}")
    return found


def _hide(options: DictConfig, key: str) -> None:
    from omegaconf import DictConfig, OmegaConf

    for name in list(options):
        node = options._get_node(name)
        where = f"{key}.{name}"
        if isinstance(node, DictConfig):
            _hide(node, where)
        elif not OmegaConf.is_interpolation(options, name):
            options[name] = _hidden(where, options[name], "") or options[name]
