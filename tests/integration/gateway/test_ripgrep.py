"""glob and grep find what ripgrep itself finds, over a tree with everything that tends to be missed.

Skips without `rg`, which is no dependency: apt-get install ripgrep.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway_world import World

pytestmark = pytest.mark.skipif(shutil.which("rg") is None, reason="no ripgrep on this machine")

TREE = r"""
git init -q .
mkdir -p src/deep/er 'app/[id]' .hidden build/out node_modules/m docs a.b
printf 'import os\nimport sys\n\ndef main():\n    return os.name\n' > src/main.py
printf 'import os\nclass A:\n    pass\n' > src/deep/er/a.py
printf 'export const A = 1\nimport x from "y"\n' > src/index.ts; printf 'export default A\n' > 'app/[id]/page.tsx'
printf 'HELLO world\nhello World\nhallo\n' > docs/greet.md; printf 'no newline at the end: import' > docs/open.txt
printf 'import hidden\n' > .hidden/h.py; printf 'import built\n' > build/out/o.py; echo 'import m' > node_modules/m/i.js
printf 'import logged\n' > x.log; echo 'import kept' > keep.log
printf '*.log\nbuild/\nnode_modules\n!keep.log\n' > .gitignore
head -c 3000 /dev/zero | tr '\0' x > docs/long.txt; printf ' import far out\n' >> docs/long.txt
printf 'one\r\nimport crlf\r\nthree\r\n' > docs/dos.txt; printf 'import\0binary\n' > docs/data.bin
printf 'caf\303\251 import\n' > docs/utf8.txt; printf 'a.b import\n' > a.b/x.y; printf '' > empty.py
printf '\377\376i\000m\000p\000o\000r\000t\000\n\000' > docs/utf16.txt
seq 1 60 | sed 's/^/line /' > docs/lines.txt; ln -s docs/greet.md link.md
printf 'foo(bar)\nfoo[bar]\nfoo{2}\n$HOME\na|b\n\\d\n' > docs/special.txt
"""
#: The input of grep, and the arguments of rg that mean the same.
SEARCHES: list[tuple[dict[str, Any], list[str]]] = [
    ({"pattern": "import"}, ["import"]),
    ({"pattern": "import", "path": "src"}, ["import", "src"]),
    ({"pattern": "import os"}, ["import os"]),
    ({"pattern": "^import"}, ["^import"]),
    ({"pattern": "import$"}, ["import$"]),
    ({"pattern": "hello"}, ["hello"]),
    ({"pattern": "hello", "ignore_case": True}, ["-i", "hello"]),
    ({"pattern": "(?i)HELLO"}, ["(?i)HELLO"]),
    ({"pattern": "h[ae]llo"}, ["h[ae]llo"]),
    ({"pattern": "[[:upper:]]+ world"}, ["[[:upper:]]+ world"]),
    ({"pattern": r"\bA\b"}, [r"\bA\b"]),
    ({"pattern": r"\w+\(\w*\)"}, [r"\w+\(\w*\)"]),
    ({"pattern": r"foo\(bar\)"}, [r"foo\(bar\)"]),
    ({"pattern": r"foo\[bar\]|foo\{2\}"}, [r"foo\[bar\]|foo\{2\}"]),
    ({"pattern": r"\$HOME"}, [r"\$HOME"]),
    ({"pattern": r"\\d"}, [r"\\d"]),
    ({"pattern": "caf."}, ["caf."]),
    ({"pattern": "line [0-9]{2}"}, ["line [0-9]{2}"]),
    ({"pattern": "no such text anywhere"}, ["no such text anywhere"]),
    ({"pattern": "import", "glob": "*.py"}, ["-g", "*.py", "import"]),
    ({"pattern": "import", "glob": "**/*.py"}, ["-g", "**/*.py", "import"]),
    ({"pattern": "import", "glob": "src/**"}, ["-g", "src/**", "import"]),
    ({"pattern": "import", "glob": "*.{ts,tsx,py}"}, ["-g", "*.{ts,tsx,py}", "import"]),
    ({"pattern": "import", "glob": "!*.py"}, ["-g", "!*.py", "import"]),
    ({"pattern": "import", "glob": "/src/*.py"}, ["-g", "/src/*.py", "import"]),
    ({"pattern": "A", "glob": r"app/\[id\]/*"}, ["-g", r"app/\[id\]/*", "A"]),
    ({"pattern": "import", "type": "py"}, ["-t", "py", "import"]),
    ({"pattern": "import", "type": "ts"}, ["-t", "ts", "import"]),
    ({"pattern": "import", "output_mode": "files_with_matches"}, ["-l", "import"]),
    ({"pattern": "import", "output_mode": "count"}, ["-c", "import"]),
    ({"pattern": "line 3", "output_mode": "count"}, ["-c", "line 3"]),
    ({"pattern": "line 30", "context": 2}, ["-C", "2", "line 30"]),
    ({"pattern": "line 2$|line 9$", "after": 1, "before": 1}, ["-C", "1", "line 2$|line 9$"]),
    ({"pattern": "line 60", "-A": 3}, ["-A", "3", "line 60"]),
    ({"pattern": "line 1$", "-B": 2}, ["-B", "2", "line 1$"]),
    ({"pattern": r"def main.*\n.*os", "multiline": True}, ["-U", "--multiline-dotall", r"def main.*\n.*os"]),
    ({"pattern": r"(?s)class A.*pass", "multiline": True}, ["-U", r"(?s)class A.*pass"]),
    ({"pattern": "built", "path": "build"}, ["built", "build"]),
    ({"pattern": "import", "path": "docs/dos.txt"}, ["import", "docs/dos.txt"]),
    ({"pattern": "logged", "path": "x.log"}, ["logged", "x.log"]),
]
GLOBS = [
    *(
        "*.py",
        "**/*.py",
        "src/*.py",
        "src/**/*.py",
        "**/er/*",
        "*.{md,txt}",
        "docs/*.t?t",
        "/*.md",
        "*.b",
        "a.b/*",
    ),
    *(
        r"app/\[id\]/*",
        "app/[[]id]/*",
        "*.[pt][ys]",
        "!*.txt",
        "docs/[!lu]*",
        "nothing.*",
        "*/deep/**",
        "x.y",
    ),
]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    folder = tmp_path / "plain"
    folder.mkdir()
    subprocess.run(["bash", "-c", TREE], cwd=folder, check=True)
    return folder


def rg(folder: Path, *arguments: str) -> list[str]:
    command = ["rg", "--no-heading", "--hidden", "--no-config", "--sort=path", "-g", "!.git", *arguments]
    found = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert found.returncode < 2, found.stderr
    return found.stdout.decode("utf-8", "replace").replace("\r\n", "\n").splitlines()


def found_by_tool(output: str) -> list[str]:
    """The rows of a result. The tool puts a blank after the number of a line, and notes into brackets."""
    rows = [line for line in output.split("\n") if not re.fullmatch(r"\[.*\]", line)]
    return [re.sub(r"^([^\n]*?[:-]\d+[:-]) ", r"\1", row) for row in rows]


def cut(row: str) -> str:
    """Of a long line only its place is compared: a result shows the part around the match, and says what it cut."""
    return re.sub(r"^([^:]*:\d+:)(.{1000,}|\[\.\.\. \d+ characters cut\].*)", r"\1…", row)


async def test_grep_finds_what_ripgrep_finds(world: World, plain: Path) -> None:
    await world.bash(TREE)
    different = []
    for given, arguments in SEARCHES:
        [done] = await world.run(("grep", {**given, "limit": 2000}))
        numbered = [] if given.get("output_mode") else ["-n", "--with-filename"]
        counted = ["--with-filename"] if given.get("output_mode") == "count" else []
        expected = sorted(map(cut, rg(plain, *numbered, *counted, *arguments)))
        found = sorted(map(cut, found_by_tool(done.output)))
        if expected != found:
            different.append(
                (
                    given,
                    [one for one in expected if one not in found],
                    [one for one in found if one not in expected],
                )
            )
    assert not different, "\n".join(map(str, different))


async def test_glob_finds_what_ripgrep_finds(world: World, plain: Path) -> None:
    await world.bash(TREE)
    different = []
    for pattern in GLOBS:
        [done] = await world.run(("glob", {"pattern": pattern, "limit": 2000}))
        # ripgrep leaves out symlinks, which are files to an agent.
        found = sorted(row for row in found_by_tool(done.output) if row != "link.md")
        expected = sorted(rg(plain, "--files", "-g", pattern))
        if expected != found:
            different.append((pattern, expected, found))
    assert not different, "\n".join(map(str, different))
