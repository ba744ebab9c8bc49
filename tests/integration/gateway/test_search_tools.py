"""glob and grep find what ripgrep finds, and say what they did not search."""

from typing import Any

import pytest
from tests.support.gateway_world import World

TREE = """
mkdir -p 'app/[id]' 'app/i' 'app/[...slug]' src/deep/er .hidden build node_modules/m
touch 'app/[id]/page.tsx' app/i/page.tsx 'app/[...slug]/page.tsx' app/layout.ts
printf 'import os\nimport sys\n' > src/deep/er/a.py; printf 'import os\n' > top.py; echo 'import os' > .hidden/h.py
echo 'import os' > build/out.py; echo 'import os' > node_modules/m/n.py; echo 'import os' > x.log
echo 'import os' > 'we{ird}.py'; echo word > src/b.test.js; echo word > src/b.js
"""


async def names(world: World, pattern: str, **more: Any) -> list[str]:
    [found] = await world.run(("glob", {"pattern": pattern, **more}))
    assert not found.is_error, found.output
    return sorted(line for line in found.output.split("\n") if not line.startswith("[ignored"))


async def test_globs_match_as_ripgrep_matches(world: World) -> None:
    await world.bash(TREE)
    python = [".hidden/h.py", "build/out.py", "src/deep/er/a.py", "top.py", "we{ird}.py"]
    assert await names(world, "*.py") == python
    assert await names(world, "**/*.py") == python
    assert await names(world, "/home/user/workspace/**/*.py") == python
    assert await names(world, "~/workspace/src/**/*.py") == ["src/deep/er/a.py"]
    assert await names(world, "./*.py") == ["top.py", "we{ird}.py"]
    assert await names(world, "/*.py") == ["top.py", "we{ird}.py"]
    assert await names(world, "src/*.py") == ["[no file matches]"]
    assert await names(world, "src/**") == ["src/b.js", "src/b.test.js", "src/deep/er/a.py"]
    assert await names(world, "src/") == ["src/b.js", "src/b.test.js", "src/deep/er/a.py"]
    assert await names(world, "*.py", path="src") == ["src/deep/er/a.py"]
    assert await names(world, "deep/**/*.py", path="/home/user/workspace/src") == [
        "/home/user/workspace/src/deep/er/a.py"
    ]
    assert await names(world, "app/[id]/page.tsx") == ["app/[id]/page.tsx"]
    assert await names(world, "app/[a-z]/page.tsx") == ["app/i/page.tsx"]
    assert await names(world, "app/[!a-h]/*.tsx") == ["app/i/page.tsx"]
    assert await names(world, "app/[[:alpha:]]/*.tsx") == ["app/i/page.tsx"]
    assert await names(world, "app/[...slug]/page.tsx") == ["app/[...slug]/page.tsx"]
    assert await names(world, r"app/\[id\]/*") == ["app/[id]/page.tsx"]
    assert await names(world, "app/**/*.{ts,tsx}") == [
        "app/[...slug]/page.tsx", "app/[id]/page.tsx", "app/i/page.tsx", "app/layout.ts",
    ]  # fmt: skip
    assert await names(world, "src/*{.test,}.js") == ["src/b.js", "src/b.test.js"]
    assert await names(world, "*.t{e,s{,x}}") == await names(world, "app/**/*.{ts,tsx}")
    assert await names(world, "!*.{py,js,log,tsx}") == ["app/layout.ts"]
    assert await names(world, r"we\{ird\}.py") == ["we{ird}.py"]
    assert await names(world, "node_modules/**/*.py") == ["node_modules/m/n.py"]
    assert await names(world, "?op.py") == ["top.py"]


async def test_nothing_found_says_why(world: World) -> None:
    await world.bash(TREE)
    [folder, outside, upwards, ignored, kind] = await world.run(
        ("glob", {"pattern": "src"}),
        ("glob", {"pattern": "/etc/*.conf"}),
        ("glob", {"pattern": "../**"}),
        ("grep", {"pattern": "import", "glob": "n.py"}),
        ("grep", {"pattern": "import", "type": "cobol"}),
    )
    assert "src is a directory; src/** finds its files" in folder.output
    assert (outside.error_kind, upwards.error_kind, kind.error_kind) == ("refused", "refused", "bad_input")
    assert ignored.output == "[no line matches]\n[ignored, not searched: node_modules/]"


async def test_gitignore_is_followed_in_a_repository(world: World) -> None:
    await world.bash(
        TREE
        + "printf '# build\nbuild/\n*.log\n!keep.log\n/top.py\n' > .gitignore; touch keep.log; echo er > src/.ignore"
    )
    assert "build/out.py" in await names(world, "*.py"), "without a repository .gitignore has no meaning"
    await world.bash("mkdir .git; echo 'app/i' > src/deep/.gitignore")
    [python, logs, every, inside, named] = await world.run(
        ("glob", {"pattern": "*.py"}),
        ("glob", {"pattern": "*.log"}),
        ("grep", {"pattern": "import os", "output_mode": "files_with_matches"}),
        ("grep", {"pattern": "import os", "path": "build"}),
        ("grep", {"pattern": "import os", "path": "top.py"}),
    )
    assert set(python.output.split("\n")[:-1]) == {".hidden/h.py", "top.py", "we{ird}.py"}
    assert set(logs.output.split("\n")[:2]) == {"keep.log", "x.log"}, "a pattern overrides the rules"
    assert every.output.split("\n")[:2] == [".hidden/h.py", "we{ird}.py"]
    assert "build/" in every.output.split("\n")[-1]
    assert "src/deep/er/" in every.output.split("\n")[-1]
    assert inside.output == "build/out.py:1: import os"
    assert named.output == "top.py:1: import os"


async def test_grep_narrows_counts_and_shows_context(world: World) -> None:
    await world.bash(
        TREE + "printf '%s\n' 1 2 3 four 5 6 7 four 9 > ctx; printf 'def f(\n  x,\n):\n' > multi.py"
    )
    [star, kind, count, two, around, after, limited, skipped, lines, not_js] = await world.run(
        ("grep", {"pattern": "import os", "glob": "*.py"}),
        ("grep", {"pattern": "IMPORT", "type": "py", "-i": True, "output_mode": "files_with_matches"}),
        ("grep", {"pattern": "import", "glob": "*.py", "output_mode": "count", "-n": True}),
        ("grep", {"pattern": "word|four", "glob": "*.js,ctx", "output_mode": "files_with_matches"}),
        ("grep", {"pattern": "four", "-C": 1}),
        ("grep", {"pattern": "four", "-A": "1", "path": "ctx"}),
        ("grep", {"pattern": "import os", "head_limit": 1}),
        ("grep", {"pattern": "four", "offset": 1}),
        ("grep", {"pattern": r"f\(.*?\)", "multiline": True}),
        ("grep", {"pattern": "word", "glob": "!*.test.js"}),
    )
    assert star.output.split("\n")[:4] == [
        ".hidden/h.py:1: import os",
        "build/out.py:1: import os",
        "src/deep/er/a.py:1: import os",
        "top.py:1: import os",
    ]
    assert kind.output.split("\n")[2] == "src/deep/er/a.py"
    assert "src/deep/er/a.py:2" in count.output.split("\n")
    assert two.output.split("\n")[:3] == ["ctx", "src/b.js", "src/b.test.js"]
    assert around.output.split("\n")[:7] == [
        "ctx-3- 3", "ctx:4: four", "ctx-5- 5", "--", "ctx-7- 7", "ctx:8: four", "ctx-9- 9",
    ]  # fmt: skip
    assert after.output == "ctx:4: four\nctx-5- 5\n--\nctx:8: four\nctx-9- 9"
    assert limited.output.split("\n")[:2] == [".hidden/h.py:1: import os", "[more lines match]"]
    assert skipped.output.split("\n")[0] == "ctx:8: four"
    assert lines.output.split("\n")[:3] == ["multi.py:1: def f(", "multi.py:2:   x,", "multi.py:3: ):"]
    assert not_js.output.split("\n")[0] == "src/b.js:1: word"


async def test_grep_reads_ripgreps_patterns(world: World) -> None:
    await world.bash(r"printf 'a1 b\tc\nword-ed [x]\nfn main() {\n' > t; printf 'end\r\n' > crlf")
    for pattern, line in {
        "[[:digit:]]": 1,
        "^[[:alpha:]_]+-": 2,
        "[^[:space:]]{7}": 2,
        r"\<ed\>": 2,
        r"(?<first>a)1": 1,
        r"\x{61}1": 1,
        r"b\tc\z": 1,
        r"\[x\]": 2,
        "main() {": 0,
        r"main\(\) {": 3,
        "end$": 1,
    }.items():
        [found] = await world.run(("grep", {"pattern": pattern}))
        assert not found.is_error, (pattern, found.output)
        assert (f":{line}: " in found.output) if line else found.output == "[no line matches]", pattern
    for pattern in (r"\p{L}", "[a-z&&[^b]]", "[[:letter:]]", "(", "a(?i)b", "[z-a]"):
        [wrong] = await world.run(("grep", {"pattern": pattern}))
        assert wrong.is_error, pattern


async def test_matches_far_out_are_found_and_cuts_marked(world: World) -> None:
    await world.bash(
        "(head -c 5000 /dev/zero | tr '\\0' x; printf needle; head -c 3000 /dev/zero | tr '\\0' y; echo) > wide;"
        " (yes $(seq 500 | tr '\\n' .) | head -c 9000000; echo; echo needle) > long; printf 'a\\0needle' > bin;"
        " printf 'needle \\351\\n' > latin; printf '\\377\\376n\\0e\\0e\\0d\\0l\\0e\\0\\n\\0' > utf16"
    )
    [found, none, files] = await world.run(
        ("grep", {"pattern": "needle"}),
        ("grep", {"pattern": "needles"}),
        ("grep", {"pattern": "é$", "output_mode": "files_with_matches"}),
    )
    assert not found.is_error, found.output
    latin, long, utf16, wide, note = found.output.split("\n")
    assert (latin, utf16, note) == ("latin:1: needle é", "utf16:1: needle", "[binary files that match: bin]")
    assert long.endswith(": needle")
    assert wide.startswith("wide:1: [... 4800 characters cut] xxx")
    assert "xneedley" in wide
    assert wide.endswith("y [... 2206 characters cut]")
    assert none.output == "[no line matches]"
    assert files.output == "latin"


@pytest.mark.timeout(60)
async def test_patterns_with_many_stars_take_no_time(world: World) -> None:
    await world.bash("touch $(printf 'a%.0s' $(seq 250)); mkdir -p $(printf 'a/%.0s' $(seq 60))")
    stars = "*a" * 14 + "b"
    [name, folders, wide] = await world.run(
        ("glob", {"pattern": stars}),
        ("glob", {"pattern": "**/a/" * 14 + "b"}),
        ("glob", {"pattern": "{a,b}" * 14}),
    )
    assert (name.output, folders.output) == ("[no file matches]", "[no file matches]")
    assert "more than 1000 patterns" in wide.output
