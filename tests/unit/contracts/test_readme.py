"""The README's code runs as it stands."""

import re
from pathlib import Path

from nightshift.contracts import canonical
from nightshift.contracts.cloudevents import decode_request

FOLDER = Path(__file__).parents[3] / "libs/contracts"


def test_the_readme_asks_for_a_build_and_reads_events():
    blocks = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["topic"] == "nightshift.requests.v1"
    assert decode_request(names["key"], names["headers"], names["value"]).event == names["request"]

    def read(name):
        golden = canonical.loads((FOLDER / f"golden/{name}.json").read_text(encoding="utf-8"))
        headers = [(header, value.encode()) for header, value in golden["headers"].items()]
        return names["on_message"](golden["key"].encode(), headers, canonical.dumps(golden["data"]).encode())

    assert read("nightshift.build.ready.v1") == "night-7: https://3000-sbx-1.example.com"
    assert read("nightshift.build.failed.v1") is None
