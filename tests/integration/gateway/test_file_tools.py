"""What the file tools show and change: encodings, line endings, images, and files outside the workspace."""

import base64
import struct
import zlib

from tests.support.gateway_world import World

from nightshift.contracts.model import BlobRef
from nightshift.eventlog.large import materialize

CASES = {
    "crlf.txt": b"one\r\ntwo\r\nthree\r\n",
    "cr.txt": b"one\rtwo\rthree\r",
    "mixed.txt": b"one\r\ntwo\nthree\n",
    "bom.txt": b"\xef\xbb\xbfone\ntwo\nthree\n",
    "open.txt": b"one\ntwo\nthree",
    "latin.txt": "oné\ntwo\nthree\n".encode("latin-1"),
    "western.txt": "“one”\r\ntwo\r\nthree\r\n".encode("windows-1252"),
    "utf16.txt": b"\xff\xfe" + "one\r\ntwo\r\nthree\r\n".encode("utf-16-le"),
    "utf16be.txt": b"\xfe\xff" + "one\ntwo\nthree\n".encode("utf-16-be"),
    "escape.txt": b"one \x1b[31m\xc2\x9d\ttab\ntwo\nthree\n",
    "lone.txt": b"one\rstill\ntwo\nthree\n",
}
NOTES = {
    "crlf.txt": "CRLF line endings",
    "cr.txt": "CR line endings",
    "mixed.txt": "mixed line endings: 1 CRLF, 2 LF",
    "bom.txt": "begins with a byte order mark",
    "open.txt": "no newline at the end",
    "latin.txt": "encoding: latin-1",
    "western.txt": "encoding: windows-1252; CRLF line endings",
    "utf16.txt": "encoding: utf-16-le; begins with a byte order mark; CRLF line endings",
    "utf16be.txt": "encoding: utf-16-be; begins with a byte order mark",
    "lone.txt": "mixed line endings: 3 LF, 1 CR",
}


async def test_edit_file_finds_what_read_file_shows(world: World) -> None:
    for name, content in CASES.items():
        await world.bash(f"echo {base64.b64encode(content).decode()} | base64 -d > {name}")
        [read] = await world.run(("read_file", {"file_path": name}))
        lines = [line.partition("\t")[2] for line in read.output.splitlines() if "\t" in line]
        assert len(lines) == 3, (name, read.output)
        assert (
            (f"[{NOTES[name]}]" in read.output) if name in NOTES else "[" not in read.output.split("\n")[-1]
        )
        two = "\n".join(lines[:2])
        [edited] = await world.run(
            ("edit_file", {"file_path": name, "old_string": two, "new_string": "1\n2"})
        )
        assert not edited.is_error, (name, edited.output)
        after = await world.bash(f"base64 -w0 {name}")
        ending = b"\r\n" if b"\r\n" in content else b"\r" if name == "cr.txt" else b"\n"
        if name.startswith("utf16"):
            mark, codec = content[:2], "utf-16-le" if name == "utf16.txt" else "utf-16-be"
            ending = b"\r\n" if name == "utf16.txt" else b"\n"
            expected = mark + (b"1" + ending + b"2" + ending + b"three" + ending).decode().encode(codec)
        else:
            expected = b"1" + ending + b"2" + content[content.index(b"two") + 3 :]
            expected = content[:3] + expected if name == "bom.txt" else expected
        assert base64.b64decode(after.output.split("\n")[0]) == expected, name


async def test_write_file_keeps_encoding_and_line_endings(world: World) -> None:
    await world.bash(
        "printf 'a\\r\\nb\\r\\n' > crlf; printf '\\351\\n' > latin; printf '\\357\\273\\277x\\n' > bom"
    )
    await world.run(
        ("write_file", {"file_path": "crlf", "content": "1\n2\n"}),
        ("write_file", {"file_path": "latin", "content": "ü\n"}),
        ("write_file", {"file_path": "bom", "content": "y\n"}),
        ("write_file", {"file_path": "~/workspace/new", "content": "1\n"}),
    )
    held = await world.bash("for f in crlf latin bom new; do od -An -tx1 $f; done; ls")
    assert [line.strip() for line in held.output.split("\n")[:4]] == [
        "31 0d 0a 32 0d 0a",
        "fc 0a",
        "ef bb bf 79 0a",
        "31 0a",
    ]
    assert "~" not in held.output


async def test_characters_that_the_encoding_lacks_change_nothing(world: World) -> None:
    await world.bash("printf 'caf\\351\\n' > latin")
    [edited, read, written, again] = await world.run(
        ("edit_file", {"file_path": "latin", "old_string": "café", "new_string": "日"}),
        ("read_file", {"file_path": "latin"}),
        ("write_file", {"file_path": "latin", "content": "日\n"}),
        ("read_file", {"file_path": "latin"}),
    )
    assert edited.is_error
    assert "latin-1" in edited.output
    assert read.output == "     1\tcafé\n[encoding: latin-1]"
    assert "now in UTF-8" in written.output
    assert again.output == "     1\t日"


async def test_cuts_binaries_directories_and_devices_are_named(world: World) -> None:
    await world.bash(
        "printf 'x%.0s' $(seq 5000) > long; head -c 9000000 /dev/zero | tr '\\0' 'é' > large; mkfifo fifo;"
        " printf 'a\\0b' > bin; mkdir dir; : > empty"
    )
    [long, large, fifo, binary, folder, device, empty, missing] = await world.run(
        *(
            ("read_file", {"file_path": name})
            for name in ("long", "large", "fifo", "bin", "dir", "/dev/null", "empty", "missing")
        )
    )
    assert long.output.endswith("x [... 3000 more characters in this line]\n[no newline at the end]")
    assert "only the first 8388608 bytes of the file were read" in large.output
    assert "not a regular file" in fifo.output
    assert "a binary file of 3 bytes" in binary.output
    assert "is a directory" in folder.output
    assert "not a regular file" in device.output
    assert empty.output == "[the file is empty]"
    assert "does not exist" in missing.output
    assert [one.is_error for one in (long, large, fifo, binary, folder, device, empty, missing)] == [
        False, False, True, True, True, True, False, True,
    ]  # fmt: skip


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 3, 8, 0, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\0\0\0" * 3))
    + _chunk(b"IEND", b"")
)
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw==")
WEBP = base64.b64decode("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")
JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    b"\xff\xc0\x00\x0b\x08\x00\x05\x00\x04\x01\x01\x11\x00\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x7f\xff\xd9"
)


async def test_images_come_as_image_blocks(world: World) -> None:
    for name, content, media_type, size in (
        ("a.png", PNG, "image/png", "2×3"),
        ("b.gif", GIF, "image/gif", "1×1"),
        ("c.webp", WEBP, "image/webp", "1×1"),
        ("d.jpg", JPEG, "image/jpeg", "4×5"),
        ("named.txt", PNG, "image/png", "2×3"),
    ):
        await world.bash(
            f"echo {base64.b64encode(content).decode()} | base64 -d > {name}; head -c -12 {name} > cut"
        )
        [shown, cut] = await world.run(
            ("read_file", {"file_path": name}), ("read_file", {"file_path": "cut"})
        )
        assert not shown.is_error, (name, shown.output)
        assert f"{media_type}, {size} pixels" in shown.output
        assert isinstance(shown.blocks, tuple)
        assert shown.blocks[1]["source"] == {
            "type": "base64",
            "media_type": media_type,
            "data": base64.b64encode(content).decode(),
        }
        assert cut.is_error, name
        assert "damaged or incomplete" in cut.output
        assert cut.blocks is None


async def test_a_large_image_is_kept_outside_its_event(world: World) -> None:
    await world.bash(
        "python3 - <<'END'\nimport os, struct, zlib\n"
        "def chunk(kind, data):\n"
        "    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))\n"
        "rows = b''.join(b'\\0' + os.urandom(300) for _ in range(300))\n"
        "head = struct.pack('>IIBBBBB', 300, 300, 8, 0, 0, 0, 0)\n"
        "open('big.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', head)"
        " + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))\nEND"
    )
    [shown] = await world.run(("read_file", {"file_path": "big.png"}))
    assert isinstance(shown.blocks, BlobRef), shown.output
    assert shown.blocks.bytes > 100_000
    whole = await materialize(shown, world.objects)
    assert isinstance(whole.blocks, tuple)
    assert whole.blocks[1]["source"]["media_type"] == "image/png"


async def test_files_outside_the_workspace_are_read_not_written(world: World) -> None:
    await world.bash("echo mine > ~/note; echo his > /tmp/other")
    [home, tmp, relative, passwd, memory, written] = await world.run(
        ("read_file", {"file_path": "~/note"}),
        ("read_file", {"file_path": "/tmp/other"}),
        ("read_file", {"file_path": "../note"}),
        ("read_file", {"file_path": "/etc/passwd"}),
        ("read_file", {"file_path": "/proc/self/environ"}),
        ("write_file", {"file_path": "~/note", "content": "x"}),
    )
    assert [one.output for one in (home, tmp, relative)] == ["     1\tmine", "     1\this", "     1\tmine"]
    assert "/home/user" in passwd.output
    assert (memory.is_error, written.is_error) == (True, True)
    assert written.error_kind == "refused"


async def test_inputs_that_other_tools_take_are_accepted(world: World) -> None:
    [made, again, other, ranged, rest, zero, slept] = await world.run(
        ("edit_file", {"file_path": "new.txt", "old_string": "", "new_string": "1\n2\n3\n"}),
        ("edit_file", {"file_path": "new.txt", "old_string": "", "new_string": "other"}),
        ("edit_file", {"file_path": "~/workspace/new.txt", "old_string": "3", "new_string": "three"}),
        ("read_file", {"file_path": "new.txt", "view_range": [2, 2]}),
        ("read_file", {"file_path": "new.txt", "view_range": [3, -1]}),
        ("read_file", {"file_path": "/home/user/workspace/new.txt", "offset": 0, "limit": "1"}),
        ("bash", {"command": "sleep 30", "timeout": 1000, "description": "Sleep"}),
    )
    assert not made.is_error
    assert again.is_error
    assert "exists" in again.output
    assert not other.is_error
    assert ranged.output == "     2\t2\n[1 more lines]"
    assert rest.output == "     3\tthree"
    assert zero.output == "     1\t1\n[2 more lines]"
    assert (slept.error_kind, "after 1 s" in slept.output) == ("timeout", True)


async def test_wrong_names_are_refused_with_the_right_one(world: World) -> None:
    results = await world.run(
        ("read_file", {"path": "a"}),
        ("edit_file", {"file_path": "a", "old_str": "a", "new_string": "b"}),
        ("bash", {"command": "ls", "timeoutt_s": 3}),
        ("bash", {"command": "ls", "zzz": 3}),
        ("Read", {"file_path": "a"}),
        ("str_replace_based_edit_tool", {"command": "view"}),
    )
    assert all(one.is_error for one in results)
    hints = ("`file_path`", "`old_string`", "`timeout_s`", "there are: command", "read_file", "edit_file")
    for one, hint in zip(results, hints, strict=True):
        assert hint in one.output


async def test_a_pdf_is_shown_as_a_document(world: World) -> None:
    await world.bash("printf '%%PDF-1.4\\n%%%%EOF\\n' > a.pdf; cp a.pdf big.pdf; truncate -s 2M big.pdf")
    [shown, large] = await world.run(
        ("read_file", {"file_path": "a.pdf"}), ("read_file", {"file_path": "big.pdf"})
    )
    assert not shown.is_error
    assert [block["type"] for block in shown.blocks] == ["text", "document"]
    assert base64.b64decode(shown.blocks[1]["source"]["data"]).startswith(b"%PDF-1.4")
    assert large.is_error
    assert "larger than the 1000000 bytes" in large.output
