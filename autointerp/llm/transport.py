"""How a server is reached: address, key, waits, and the HTTP client made of them.

The openai package reads names of the account, proxies and further keys from the environment; here none of
them reaches a server that they are not meant for.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from autointerp.errors import ServerError
from autointerp.llm.faults import shown_url

if TYPE_CHECKING:
    import httpx2
    import openai

OPENAI_URL = "https://api.openai.com/v1"
PLACEHOLDER_KEY = "no-key"  # the openai package wants one even for a server without keys


@dataclass(frozen=True)
class ClientOptions:
    """How to reach a server.

    Waits between tries are `retry_base` * 2^n seconds with jitter, at most `longest_wait`.
    """

    base_url: str = ""
    api_key: str = ""
    timeout: float = 120.0
    attempts: int = 6
    retry_base: float = 1.0
    longest_wait: float = 60.0
    longest_retry_after: float = 120.0

    def __repr__(self) -> str:
        return f"ClientOptions(base_url={shown_url(self.url)!r}, api_key=…)"

    @property
    def url(self) -> str:
        """The base URL without white space and trailing slashes; OpenAI's where none is given."""
        return self.base_url.strip().rstrip("/") or OPENAI_URL


def no_server(url: str) -> ServerError:
    """The error for an address where nothing answers."""
    return ServerError(f"no server answers at {shown_url(url)}: start it or correct --base-url.")


def no_model(model: str, url: str, names: tuple[str, ...]) -> ServerError:
    """The error for a model that the server does not have, with those that it has."""
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    said = f"it has {listed}" if names else "it lists no models"
    return ServerError(f"the server at {shown_url(url)} has no model {model!r}; {said}. Correct --llm.")


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or host.endswith(".localhost") or ip_address(host).is_loopback
    except ValueError:
        return False


def make_client(options: ClientOptions, transport: httpx2.AsyncBaseTransport | None) -> openai.AsyncOpenAI:
    """The client; raises ServerError for an address or a key that cannot be used."""
    import openai

    scheme, host = urlsplit(options.url).scheme, urlsplit(options.url).hostname
    if scheme not in ("http", "https") or not host:
        raise ServerError(f"--base-url {shown_url(options.url)!r} is not a web address: write http://HOST:PORT/v1.")
    key = options.api_key.strip()
    if not key and host == "api.openai.com":
        raise ServerError("OpenAI needs a key: set OPENAI_API_KEY, or name a local server with --base-url.")
    if not key.isascii() or any(c.isspace() for c in key):
        raise ServerError("OPENAI_API_KEY holds white space or a character that is not ASCII. Copy the key again.")
    arguments: dict[str, Any] = {"trust_env": not is_loopback(options.url)}
    if transport is not None:
        arguments["transport"] = transport
    client = openai.AsyncOpenAI(
        api_key=key or PLACEHOLDER_KEY,
        base_url=options.url,
        max_retries=0,
        timeout=options.timeout,
        http_client=openai.DefaultAsyncHttpxClient(**arguments),
    )
    client.admin_api_key = None
    if host != "api.openai.com":  # the package would send the account's names to anybody
        client.organization, client.project = None, None
    return client
