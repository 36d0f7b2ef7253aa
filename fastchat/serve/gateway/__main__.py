"""Prints the nginx configuration of a site: TLS, limits, and balancing over several servers.

python3 -m fastchat.serve.gateway --backend localhost:7860 --backend localhost:7861:3 \
    --api localhost:8000 --server-name chat.example.org --cert fullchain.pem --key key.pem
"""

import re
import string
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastchat.errors import UsageError
from fastchat.settings import alias, run_command

PROG = "python3 -m fastchat.serve.gateway"
TEMPLATE = Path(__file__).with_name("template.conf")
HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
SIZE = re.compile(r"[0-9]+[kKmMgG]?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """Prints an nginx configuration in front of page and API servers."""

    backend: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Page server as host:port or host:port:weight; may be repeated. By default
    localhost:7860."""
    api: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """API server as host:port or host:port:weight, reached under /v1/; may be repeated."""
    server_name: str = "_"
    """Name of the site; _ answers to any."""
    ssl_certificate: Annotated[Path | None, alias("--cert")] = None
    """Certificate chain; without it the site speaks plain HTTP."""
    ssl_certificate_key: Annotated[Path | None, alias("--key")] = None
    """Private key of the certificate."""
    port: int | None = None
    """Port to listen on: 443 with a certificate, 80 without."""
    connections_per_address: int = 20
    """Connections that one client address may hold open."""
    connections_per_server: int = 1024
    """Connections that the site holds open in all."""
    max_body: str = "20m"
    """Largest request body, as nginx writes sizes."""
    pid_path: Path = Path("/run/nginx.pid")
    """Where nginx notes its process."""

    def __post_init__(self) -> None:
        if (self.ssl_certificate is None) != (self.ssl_certificate_key is None):
            raise UsageError("--ssl-certificate and --ssl-certificate-key go together.")
        if min(self.connections_per_address, self.connections_per_server) < 1:
            raise UsageError("The numbers of connections must be at least 1.")
        if not SIZE.fullmatch(self.max_body):
            raise UsageError(f"--max-body {self.max_body!r} is no size such as 20m.")
        if self.server_name != "_" and not HOST.fullmatch(self.server_name):
            raise UsageError(f"--server-name {self.server_name!r} is no name of a site.")
        for path in (self.ssl_certificate, self.ssl_certificate_key, self.pid_path):
            if path is not None and re.search(r"[\s;{}\"'$\\]", str(path)):
                raise UsageError(f"The path {str(path)!r} holds a character that nginx reads.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A server behind the gateway, and its share of the readers."""

    address: str
    weight: int = 1

    def line(self) -> str:
        """As it stands in an `upstream` block; one that fails thrice rests for ten seconds."""
        weight = f" weight={self.weight}" if self.weight != 1 else ""
        return f"        server {self.address}{weight} max_fails=3 fail_timeout=10s;"


def backend(text: str) -> Backend:
    """Reads `host:port` or `host:port:weight`.

    Raises:
        UsageError: it is neither.
    """
    found = re.fullmatch(rf"({HOST.pattern}):([0-9]+)(?::([0-9]+))?", text)
    if found is None or not 0 < int(found[2]) < 65536 or int(found[3] or 1) < 1:
        raise UsageError(
            f"{text!r} is no server: give host:port, or host:port:weight with a weight of 1 "
            "or more."
        )
    return Backend(address=f"{found[1]}:{found[2]}", weight=int(found[3] or 1))


def configuration(settings: SiteSettings, *, command: str = PROG) -> str:
    """The text of the nginx configuration."""
    pages = [backend(text) for text in settings.backend or ("localhost:7860",)]
    apis = [backend(text) for text in settings.api]
    has_tls = settings.ssl_certificate is not None
    port = settings.port or (443 if has_tls else 80)
    text = string.Template(TEMPLATE.read_text("utf-8")).substitute(
        command=command,
        pid_path=settings.pid_path,
        page_servers="\n".join(server.line() for server in pages),
        api_upstream=_api_upstream(apis),
        api_location=_api_location() if apis else "",
        redirect=_redirect(settings.server_name) if has_tls and port == 443 else "",
        listen=f"listen {port}{' ssl' if has_tls else ''};",
        server_name=settings.server_name,
        tls=_tls(settings) if has_tls else "",
        per_address=settings.connections_per_address,
        per_server=settings.connections_per_server,
        max_body=settings.max_body,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _api_upstream(apis: Sequence[Backend]) -> str:
    if not apis:
        return ""
    lines = "\n".join(server.line() for server in apis)
    return f"\n    upstream apis {{\n        least_conn;\n{lines}\n        keepalive 32;\n    }}\n"


def _api_location() -> str:
    """`/v1/` and the published `/api/v1/`; metrics and the like are not shown outside."""
    return "\n        location ~ ^/(api/)?v1/ {\n            proxy_pass http://apis;\n        }\n"


def _redirect(server_name: str) -> str:
    return (
        "\n    server {\n        listen 80;\n"
        f"        server_name {server_name};\n"
        "        return 301 https://$host$request_uri;\n    }\n"
    )


def _tls(settings: SiteSettings) -> str:
    return (
        f"        ssl_certificate {settings.ssl_certificate};\n"
        f"        ssl_certificate_key {settings.ssl_certificate_key};\n"
        "        ssl_protocols TLSv1.2 TLSv1.3;\n"
        "        ssl_session_cache shared:tls:10m;\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the configuration."""
    return run_command(SiteSettings, _run, argv, prog=PROG)


def _run(settings: SiteSettings) -> None:
    print(configuration(settings), end="")


if __name__ == "__main__":
    sys.exit(main())
