"""Host names: which ones a request may contain, the hosts of the public package registries, and the host of the model's
API.
"""

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from nightshift.contracts.model import SEALED

#: The public package registries. Builds may reach these hosts unless a setting says otherwise.
PUBLIC_REGISTRIES: Final = frozenset(
    {
        *("pypi.org", "files.pythonhosted.org"),
        *("registry.npmjs.org", "registry.yarnpkg.com"),
        *("crates.io", "index.crates.io", "static.crates.io"),
        *("proxy.golang.org", "sum.golang.org"),
        *("repo.maven.apache.org", "repo1.maven.org", "plugins.gradle.org"),
        *("rubygems.org", "index.rubygems.org"),
        *("api.nuget.org", "repo.packagist.org"),
    }
)

#: A sandbox never reaches these hosts, whatever settings, policies and requests allow: agents must not call models.
MODEL_HOSTS: Final = frozenset({"api.anthropic.com"})

LABEL: Final = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


def _not_the_model(host: str) -> str:
    if host in MODEL_HOSTS:
        raise ValueError("builds cannot reach the model's API")
    return host


#: A full DNS name in lower case with two or more labels, such as `files.example.org`. IP addresses are refused.
HostName = Annotated[
    str,
    Field(min_length=3, max_length=253, pattern=rf"^({LABEL}\.)+[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?$"),
    AfterValidator(_not_the_model),
    SEALED,
]
