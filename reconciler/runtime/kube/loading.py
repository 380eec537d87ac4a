"""The official client's configuration loaders, made to give clear errors and to notice new tokens."""

import logging
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import InClusterConfigLoader
from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger

from reconciler.runtime.kube.config import Cluster, ConfigError
from reconciler.runtime.kube.credentials import NoToken, Renewable, TokenFile
from reconciler.runtime.kube.http_transport import Credentials, HttpTransport
from reconciler.runtime.kube.kubeconfig import Choice, choose

_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_log = logging.getLogger(__name__)


def open_transport(cluster: Cluster, environment: Mapping[str, str], clock: Callable[[], float]) -> HttpTransport:
    """Load the configuration that Cluster describes and set up the connection pool; raises ConfigError."""
    configuration = Configuration()
    configuration.connection_pool_maxsize = cluster.connections
    configuration.keep_alive = True
    if cluster.kubeconfig is None and environment.get("KUBERNETES_SERVICE_HOST"):
        source, credentials = _load_pod(configuration, cluster.service_account, environment, clock)
    else:
        paths = _kubeconfigs(cluster, environment)
        source = ":".join(map(str, paths))
        credentials = _load_kubeconfig(configuration, paths, cluster.context, clock)
    _check_host(configuration.host, source)
    _check_certificates(configuration, source)
    _accept_no_verification(configuration, source)
    _prepare_proxy(configuration, source)
    try:
        pool = ApiClient(configuration).rest_client.pool_manager
    except (urllib3.exceptions.HTTPError, ImportError, OSError, ValueError) as error:
        raise ConfigError(f"{source}: {error}") from error
    return HttpTransport(pool, configuration.host, credentials, user_agent=cluster.user_agent, clock=clock)


def _load_pod(
    configuration: Configuration, mount: Path, environment: Mapping[str, str], clock: Callable[[], float]
) -> tuple[str, Credentials]:
    token, authority = mount / "token", mount / "ca.crt"
    source = f"service account ({token}, {authority})"
    try:
        credentials = TokenFile(token, clock)
        InClusterConfigLoader(  # type: ignore[no-untyped-call]
            str(token), str(authority), try_refresh_token=False, environ=environment
        ).load_and_set(configuration)
    except ConfigException as error:
        raise ConfigError(f"{source}: {error}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    return source, credentials


def _kubeconfigs(cluster: Cluster, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The files to read. Of those in KUBECONFIG some may be missing, but not all."""
    if cluster.kubeconfig is not None:
        return (cluster.kubeconfig,)
    named = tuple(Path(name).expanduser() for name in environment.get("KUBECONFIG", "").split(":") if name)
    if not named:
        named = (Path("~/.kube/config").expanduser(),)
    existing = tuple(path for path in named if path.exists())
    if not existing:
        raise ConfigError(f"no cluster: not in a pod, and no kubeconfig at {', '.join(map(str, named))}")
    return existing


def _load_kubeconfig(
    configuration: Configuration, paths: tuple[Path, ...], context: str | None, clock: Callable[[], float]
) -> Credentials:
    chosen = choose(paths, context)
    source = ":".join(map(str, paths))
    token_file = _open_token_file(chosen, clock)
    try:
        merged = KubeConfigMerger(source).config  # type: ignore[no-untyped-call]
        # Without a base path files are looked for beside the kubeconfig that names them.
        loader = KubeConfigLoader(  # type: ignore[no-untyped-call]
            merged, active_context=chosen.context, config_base_path=None
        )
        loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise ConfigError(f"{source}: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{source}: {type(error).__name__}: {error}") from error
    if token_file is not None:
        return token_file
    if chosen.plugin and not configuration.api_key and not configuration.cert_file:
        raise ConfigError(f"{chosen.user_field}.{chosen.plugin}: gave no credentials (its errors are in the log)")
    if not configuration.api_key:
        return NoToken()
    try:
        return Renewable(lambda: _header(configuration), lambda: _load_again(loader, configuration))
    except ValueError as error:
        raise ConfigError(f"{chosen.user_field}: {error}") from error


def _open_token_file(chosen: Choice, clock: Callable[[], float]) -> TokenFile | None:
    """The official loader would read it only once, and prefer a token beside it, where kubectl doesn't."""
    if chosen.token_file is None:
        return None
    try:
        return TokenFile(chosen.token_file, clock)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{chosen.user_field}.tokenFile: {error}") from error


def _header(configuration: Configuration) -> str:
    """What the loader has for the Authorization header; it renews what has expired. Raises OSError, ValueError."""
    try:
        return configuration.get_api_key_with_prefix("BearerToken") or ""
    except ConfigException as error:
        raise ValueError(str(error)) from error


def _load_again(loader: KubeConfigLoader, configuration: Configuration) -> None:
    """Run the credential plugin once more. Raises OSError, ValueError."""
    try:
        loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise ValueError(str(error)) from error


def _check_host(host: str, source: str) -> None:
    parts = urlsplit(host)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{source}: server {host!r} is not an http:// or https:// URL")


def _check_certificates(configuration: Configuration, source: str) -> None:
    """Fail now and with the file's name rather than at the first connection and without."""
    authority, certificate = configuration.ssl_ca_cert, configuration.cert_file
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    path = authority
    try:
        if authority:
            context.load_verify_locations(authority)
        if certificate:
            path = certificate
            context.load_cert_chain(certificate, configuration.key_file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source}: certificate or key in {path}: {error}") from error


def _accept_no_verification(configuration: Configuration, source: str) -> None:
    if not configuration.verify_ssl:
        _log.warning("the API server's certificate is not verified", extra={"configuration": source})
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # said once is enough


def _prepare_proxy(configuration: Configuration, source: str) -> None:
    """Check a proxy's URL, and send its user name and password, which urllib3 leaves to its caller."""
    if configuration.proxy:
        proxy = urlsplit(configuration.proxy)
        if not proxy.hostname or proxy.scheme not in _PROXY_SCHEMES:
            allowed = ", ".join(f"{scheme}://" for scheme in _PROXY_SCHEMES)
            raise ConfigError(f"{source}: proxy {configuration.proxy!r} is not a URL with one of {allowed}")
        if proxy.username is not None:
            login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            configuration.proxy_headers = urllib3.make_headers(proxy_basic_auth=login)
