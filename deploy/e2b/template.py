"""Builds a template for Nightshift's sandboxes at E2B, with the account of E2B_API_KEY.

    .venv/bin/python deploy/e2b/template.py nightshift
    .venv/bin/python deploy/e2b/template.py --print        # only print it as a Dockerfile

Then set E2B_TEMPLATE to its name and restart the sandbox-gateway. The agent in a sandbox needs python3 and bash; the
other packages are what coding agents use most. Add what your customers' builds need.
"""

import argparse

from e2b import Template, default_build_logger

#: Debian packages. Chromium serves `take_screenshot`.
PACKAGES = (
    *("bash", "build-essential", "chromium", "curl", "git", "jq"),
    *("python3", "python3-pip", "python3-venv", "ripgrep"),
)
TEMPLATE = (
    Template().from_node_image("22").apt_install(list(PACKAGES)).set_user("user").set_workdir("/home/user")
)


def main() -> None:
    """Build the template, or print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", default="nightshift", help="the template's name at E2B")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--memory-mb", type=int, default=2048)
    parser.add_argument(
        "--print", action="store_true", help="print the template as a Dockerfile, and build nothing"
    )
    asked = parser.parse_args()
    if asked.print:
        print(Template.to_dockerfile(TEMPLATE))
        return
    Template.build(
        TEMPLATE,
        alias=asked.name,
        cpu_count=asked.cpus,
        memory_mb=asked.memory_mb,
        on_build_logs=default_build_logger(),
    )


if __name__ == "__main__":
    main()
