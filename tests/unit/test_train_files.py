"""The folder of results: nothing is written outside of it, whatever others have laid there or a service says."""

from pathlib import Path

import pytest

from promptjobs.cli.train_files import LOCK, ResultsFolder
from promptjobs.errors import FileUnusable


def write(folder: ResultsFolder, files: dict[str, str]) -> None:
    folder.write(files, sleep=lambda _: None)


def test_files_are_whole_and_replace_what_a_killed_command_has_left(tmp_path: Path) -> None:
    folder = ResultsFolder.at(tmp_path / "results")
    (folder.path / "a.txt.part").write_text("half of somethi")
    write(folder, {"a.txt": "all\n"})
    assert (folder.path / "a.txt").read_text() == "all\n"
    assert sorted(each.name for each in folder.path.iterdir()) == [LOCK, "a.txt"]


@pytest.mark.parametrize("name", [LOCK, "a.txt.part"])
def test_a_link_in_the_folder_is_not_followed(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    folder = ResultsFolder(tmp_path / "results")
    folder.path.mkdir()
    (folder.path / name).symlink_to(precious)
    with pytest.raises(FileUnusable):
        write(folder, {"a.txt": "all"})
    assert precious.read_text() == "kept"


@pytest.mark.parametrize("name", ["../a.txt", "/tmp/a.txt", "sub/a.txt"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = ResultsFolder.at(tmp_path / "results")
    with pytest.raises(FileUnusable):
        write(folder, {name: "all"})
    assert [each.name for each in folder.path.iterdir()] == [LOCK]
