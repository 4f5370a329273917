"""Files below a folder: all of them, in order, and nothing that is no file."""

import os

import pytest

from training.data.files import checked, files_below, stamp


def test_all_files_of_the_suffixes_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / "a.d").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b/2.txt", "b/1.TXT", "b/deep/3.txt.gz", "a.d/4.txt", ".hidden/5.txt", "b/.6.txt", "b/7.md", "0.txt"):
        (tmp_path / name).write_text("x")
    found = [str(path.relative_to(tmp_path)) for path in files_below(tmp_path, (".txt", ".txt.gz"))]
    assert found == ["0.txt", "a.d/4.txt", "b/1.TXT", "b/2.txt", "b/deep/3.txt.gz"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.txt").write_text("x")
    root = tmp_path / "root"
    root.mkdir()
    for name in ("one", "two"):
        (root / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert files_below(root, (".txt",)) == [root / "one" / "1.txt", root / "two" / "1.txt"]
    (tmp_path / "elsewhere" / "back").symlink_to(root, target_is_directory=True)
    with pytest.raises(ValueError, match="is a link to a folder that it lies in"):
        files_below(root, (".txt",))


def test_what_is_no_file_is_named_unless_nobody_wants_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "link.txt").symlink_to("nowhere")
    assert files_below(tmp_path, (".png",)) == []
    with pytest.raises(ValueError, match=r"link\.txt is a link to nothing"):
        files_below(tmp_path, (".txt",))
    with pytest.raises(ValueError, match=r"link\.txt is a link to nothing"):
        stamp(tmp_path / "link.txt")
    with pytest.raises(ValueError, match=r"pipe\.txt must be a file, not a pipe, socket or device"):
        checked(tmp_path / "pipe.txt")
    with pytest.raises(ValueError, match="must be a file, not a folder"):
        checked(tmp_path)
    with pytest.raises(ValueError, match=r"gone\.txt does not exist"):
        checked(tmp_path / "gone.txt")
