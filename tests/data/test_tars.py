"""Members of tars in every format are where tarfile says, and damage is named."""

import io
import tarfile
from pathlib import Path

import pytest

from aigc import data
from aigc.config import DataConfig, ModelConfig
from aigc.data import _index
from aigc.data._content import File
from aigc.data._files import listing
from aigc.data._index import indices, scan
from aigc.data._tars import Joined, Member, NoTar, Unsupported, members
from tests.data.pictures import SHAPE, picture, png, tar

NAMES = (
    "a.png",
    "folder/b.png",
    f"{'long' * 30}/{'name' * 20}.png",
    f"{'deep/' * 40}c.png",
    "ü😀.png",
    "./d.png",
)


def written(kind: int, names: tuple[str, ...] = NAMES) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as file:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        file.addfile(link)
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = 511 * number
            file.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def listed(content: bytes) -> list[Member]:
    return list(members(lambda offset, count: content[offset : offset + count], len(content)))


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_equal_those_of_tarfile(kind: int) -> None:
    names = NAMES if kind != tarfile.USTAR_FORMAT else NAMES[:3]
    content = written(kind, names)
    with tarfile.open(fileobj=io.BytesIO(content)) as file:
        wanted = [Member(m.name, m.offset_data, m.size) for m in file if m.isfile()]
    assert listed(content) == [Member("link.png", -1, 0), *wanted]
    assert [member.name for member in wanted] == list(names)


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_hard_link_is_the_member_it_names(kind: int) -> None:
    long = f"{'deep/' * 40}c.png"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as file:
        for name, target in (
            ("./a.png", ""),
            (long, ""),
            ("to-a.png", "a.png"),
            ("to-long.png", long),
            ("to-link.png", "to-a.png"),
            ("b.png", ""),
            ("to-b.png", "b.png"),
            ("to-later.png", "later.png"),
            ("later.png", ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE if target else tarfile.REGTYPE, target
            member.size = 0 if target else len(name)
            file.addfile(member, io.BytesIO(name.encode()))
        pipe = tarfile.TarInfo("pipe.png")
        pipe.type = tarfile.FIFOTYPE
        file.addfile(pipe)
    content = buffer.getvalue()
    held = {m.name: content[m.offset : m.offset + m.size].decode() for m in listed(content)}
    assert [held[f"to-{name}.png"] for name in ("a", "long", "link", "b")] == [
        *("./a.png", long, "./a.png", "b.png")
    ]
    assert [m.name for m in listed(content) if m.offset < 0] == ["to-later.png", "pipe.png"]


def test_data_after_the_end_marker_are_reported_last() -> None:
    content = written(tarfile.USTAR_FORMAT, ("a.png", "b.png"))
    found = members(lambda offset, count: (content * 2)[offset : offset + count], len(content) * 2)
    assert [next(found).name for _ in range(3)] == ["link.png", "a.png", "b.png"]
    with pytest.raises(Joined, match="data follow the end of the tar at byte"):
        next(found)


def test_sizes_beyond_octal_are_read() -> None:
    member = tarfile.TarInfo("big.png")
    member.size = 2**34
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        head = member.tobuf(kind)
        found = members(lambda o, n, head=head: head[o : o + n], 2**35)  # type: ignore[misc]
        assert next(found).size == 2**34


def test_damage_is_reported_after_whole_members() -> None:
    content = bytearray(written(tarfile.PAX_FORMAT, ("a.png", "b.png", "c.png")))
    places = [member.offset for member in listed(bytes(content)) if member.offset > 0]
    content[places[1] - 512 + 100] ^= 1
    found = members(lambda offset, count: bytes(content[offset : offset + count]), len(content))
    assert [next(found).name for _ in range(2)] == ["link.png", "a.png"]
    with pytest.raises(NoTar, match=f"there is no header at byte {places[1] - 512}"):
        next(found)


@pytest.mark.parametrize("length", [0, 100, 512 * 3, 512 * 4 + 7])
def test_truncated_tar_names_the_offset(length: int) -> None:
    content = written(tarfile.USTAR_FORMAT, ("a.png", "b.png", "c.png"))[:length]
    with pytest.raises(EOFError, match="the tar ends"):
        listed(content)


def test_sparse_members_are_refused() -> None:
    content = bytearray(written(tarfile.GNU_FORMAT, ("a.png",)))
    member = tarfile.TarInfo("s.png")
    member.type = tarfile.GNUTYPE_SPARSE
    content[:512] = member.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(Unsupported, match="without --sparse"):
        listed(bytes(content))


@pytest.mark.process
def test_indices_of_many_processes_equal_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        rows = [(png(picture(n)), n % 3) for n in range(number + 1)]
        tar(tmp_path / f"{number}.tar", rows)
    files = listing(str(tmp_path), (".tar",), "webdataset").files
    monkeypatch.setattr(_index, "PAYS_S", -1.0)
    monkeypatch.setattr(_index, "cpu_count", lambda: 2)
    found = indices(files, "x")
    assert found == {file: scan(file) for file in files}
    monkeypatch.setattr(_index, "scan", None)  # now they are known
    assert indices(files, "x") == found


@pytest.mark.process
def test_index_error_reaches_the_caller_from_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        tar(tmp_path / f"{number}.tar", [(png(picture(0)), 1)])
    (tmp_path / "2.tar").write_bytes(b"no tar at all" * 99)
    files = listing(str(tmp_path), (".tar",), "webdataset").files
    monkeypatch.setattr(_index, "PAYS_S", -1.0)
    monkeypatch.setattr(_index, "cpu_count", lambda: 2)
    with pytest.raises(
        ValueError, match=r"2\.tar is no plain tar file: there is no header at byte 0"
    ):
        indices(files, "x")


@pytest.mark.parametrize(
    ("content", "label"),
    [(b"7", 7), (b"7\n", 7), (b"cat\n", "cat"), (b"0.5", 0.5), (b'"dog"', "dog"), (b"", None)],
)
def test_cls_member_holds_a_number_or_a_name(content: bytes, label: object, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name, body in (("0.json", b'{"caption": "a cat"}'), ("0.cls", content)):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            file.addfile(member, io.BytesIO(body))
    path = tmp_path / "a.tar"
    assert scan(File(f"file://{path}", "a.tar", path.stat().st_size, ""))["labels"] == [label]


def test_unread_members_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "test"):
        tar(tmp_path / f"{name}.tar", [(png(picture(n)), 0) for n in range(3)])
    with tarfile.open(tmp_path / "train.tar", "a") as file:
        for number, kind in enumerate((tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(f"link{number}.png")
            member.type, member.linkname = kind, file.getnames()[0]
            file.addfile(member)
        label = tarfile.TarInfo("link0.cls")
        label.size = 1
        file.addfile(label, io.BytesIO(b"0"))
    whole = (tmp_path / "train.tar").read_bytes()
    (tmp_path / "train.tar").write_bytes(whole + (tmp_path / "test.tar").read_bytes())
    config = DataConfig(source="webdataset", path=str(tmp_path), memory_mb=0)
    source = data.load(config, ModelConfig(shape=SHAPE, num_classes=1))
    assert len(source) == 4
    assert (source.read(3)[0] == source.read(0)[0]).all()
    told = source.survey.left_out[-1]
    assert (told.count, told.first) == (2, ("link1.png", "link2.png"))
    assert "goes on behind its end, of which nothing is read" in source.survey.notes[-1]
    assert "here 4 samples" in caplog.text
