"""Clones a repository in a real sandbox, in a network without a route out. Prints what the commands said as JSON.

Run as root: `unshare -n -m python -m tests.support.egress_clone FOLDER`. The "internet" is `egress_outside`.
"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.egress_lab import ACCOUNT, OUTSIDE, internet
from tests.support.gateway_world import World

from nightshift.contracts.events.build import BuildReady
from nightshift.contracts.events.requests import Source
from nightshift.contracts.events.sandbox import SourceDelivered
from nightshift.sandboxes.egress.authority import Authority
from nightshift.sandboxes.egress.process import EgressProcess
from nightshift.sandboxes.egress.secret_store import SecretStore
from nightshift.sandboxes.local.driver import LocalDriver, close_all
from nightshift.sandboxes.local.settings import LocalSettings

_OPEN, _PRIVATE = "files.lab.example", "secret.lab.example"


#: Downloads, uploads, is refused, and reaches a server of its own.
_FETCH = """
const http = require("http");
(async () => {
  const get = await fetch("https://files.lab.example/w/a.txt");
  console.log(process.version, get.status, (await get.text()).trim());
  const post = await fetch("http://files.lab.example/w/a.txt", {method: "POST", body: "x".repeat(300000)});
  console.log(post.status);
  await fetch("https://evil.example/").catch((error) => console.log(String(error.cause || error)));
  const server = http.createServer((request, answer) => answer.end("own"));
  server.listen(8123, async () => {
    console.log(await (await fetch("http://localhost:8123/")).text());
    server.close();
  });
})();
"""


def repository(folder: Path) -> None:
    """A bare repository that plain HTTP can serve, at `x.git`."""
    script = (
        "git init -q -b main w && cd w && echo hello > a.txt && mkdir .nightshift"
        " && echo 'echo from the source > made.txt' > .nightshift/setup.sh && git add ."
        " && git -c user.name=a -c user.email=a@b.c commit -qm first && cd .."
        " && git clone -q --bare w x.git && git -C x.git update-server-info"
    )
    subprocess.run(["sh", "-c", script], cwd=folder, check=True)


async def deliver(world: World, source: Source) -> list[object]:
    """A build of two turns that ends ready. Returns what was delivered."""
    await world.accept(source=source, secrets=("TOKEN",) if source.secret else ())
    await world.prepare()
    for turn in (1, 2):
        await world.bash(f"echo {turn} >> a.txt")
        await world.checkpoint()
    await world.bash("echo last > b.txt")
    await world.say(
        BuildReady(
            project_id="p1",
            sandbox_id=await world.box_id(),
            preview_url="",
            build_version=1,
            cost_microusd=0,
            turns=3,
            tool_calls=3,
        )
    )
    await world.save("completion")
    await world.gateway().work(world.build_id)
    await world.gateway().work(world.build_id)  # delivered again changes nothing
    return [event.model_dump() for event in await world.events() if isinstance(event, SourceDelivered)]


async def main(folder: Path) -> None:
    repository(folder)
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{OUTSIDE} {_OPEN} {_PRIVATE}\n")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)  # noqa: ASYNC221
    authority = Authority(folder / "egress")
    os.environ["SSL_CERT_FILE"] = str(
        authority.prepare()
    )  # the proxy and the sandbox trust the servers outside
    outside = await internet([], authority, root=folder)
    store = SecretStore(folder / "secrets")
    store.put(ACCOUNT, "TOKEN", "canary-token-0123456789", [_PRIVATE])
    said: dict[str, object] = {}
    async with EgressProcess(folder / "egress", folder / "secrets") as egress:
        driver = LocalDriver(LocalSettings(folder / "sandboxes"), egress)
        try:
            one = World(driver, secrets=store, hosts=frozenset({_OPEN}))
            await one.accept()
            clone = await one.bash(f"git clone -q https://{_OPEN}/x.git && cat x/a.txt")
            said["clone"] = [clone.is_error, clone.output, [use.host for use in clone.network or ()]]
            said["fetch"] = (await one.bash(f"node -e '{_FETCH}'")).output
            two = World(driver, secrets=store, hosts=frozenset())
            source = Source(repository=f"https://{_PRIVATE}/private/x.git", ref="main", secret="TOKEN")
            await two.accept(source=source, secrets=("TOKEN",))
            prepared = await two.prepare()
            said["prepared"] = [prepared.is_error, prepared.output]
            looked = await two.bash(
                "cat a.txt; git branch --show-current; cat made.txt; grep -rac canary .git | grep -v ':0$'; true"
            )
            said["looked"] = looked.output
            for name, source in (
                ("pushed", Source(repository=f"https://{_PRIVATE}/git/x.git", ref="main", secret="TOKEN")),
                ("kept", Source(repository=f"https://{_OPEN}/git/x.git", ref="main")),
            ):
                three = World(driver, secrets=store, hosts=frozenset({_OPEN}))
                said[name] = await deliver(three, source)
                delivered = [event for event in await three.events() if isinstance(event, SourceDelivered)]
                said[f"{name} objects"] = sorted(key for key in three.objects.bodies if "bundle" in key)
                log = [
                    "git",
                    "-C",
                    str(folder / "x.git"),
                    "log",
                    "--format=%s|%(trailers)",
                    delivered[0].branch,
                    "--",
                ]
                shown = subprocess.run(log, capture_output=True, text=True, check=False)  # noqa: ASYNC221
                said[f"{name} log"] = shown.stdout
        finally:
            await asyncio.to_thread(close_all, folder / "sandboxes")
    outside.terminate()
    outside.wait()
    print(json.dumps(said))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
