"""A new location in a copy of the repository, and out of it again."""

import shutil
import subprocess
from pathlib import Path

import pytest
from codeloc import planning, scaffold, workspace
from codeloc.errors import CodelocError
from codeloc.home import ROOT, write_whole


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with what `new` and `remove` touch, committed."""
    for file in (*scaffold.FILES, "pyproject.toml"):
        shutil.copy2(ROOT / file, tmp_path / file)
    ignored = shutil.ignore_patterns(".venv", "__pycache__", "var")
    for folder in ("shared", "locations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "before"]):
        git(tmp_path, *command)
    for module in (scaffold, workspace, planning):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_new_location_is_in_every_list_and_can_be_taken_out_again(root: Path) -> None:
    said: list[str] = []
    folder = scaffold.new("marketing", said.append)
    assert [location.name for location in workspace.locations()] == ["ingestion", "analytics", "marketing"]
    assert planning.registry_problems(root) == []
    assert (folder / "uv.lock").stat().st_size > 10_000
    compose = (root / "docker-compose.yml").read_text(encoding="utf-8")
    assert compose.count("sockets-marketing:") == 5
    assert compose.count("${MARKETING_TAG:-dev}") == 2

    with pytest.raises(CodelocError, match="git does not have everything"):
        scaffold.remove("marketing", forced=False)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "new")
    scaffold.remove("marketing", forced=False)
    assert git(root, "diff", "--stat", "HEAD~1") == ""
    assert not folder.exists()


def test_the_first_location_that_is_added_is_a_model_for_the_next(root: Path) -> None:
    scaffold.new("finance", lambda _line: None)
    scaffold.new("marketing", lambda _line: None)
    assert planning.registry_problems(root) == []
    scaffold.remove("finance", forced=True)
    scaffold.remove("marketing", forced=True)
    assert git(root, "status", "--porcelain") == ""


def test_a_lock_that_cannot_be_made_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_folder: Path, _say: scaffold.Say) -> None:
        raise CodelocError("no network")

    monkeypatch.setattr(scaffold, "_lock", fail)
    with pytest.raises(CodelocError, match="no network"):
        scaffold.new("marketing", lambda _line: None)
    assert git(root, "status", "--porcelain") == ""


def test_a_file_that_cannot_be_written_leaves_the_others_as_they_were(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = [], write_whole

    def full(file: Path, content: str) -> None:
        written.append(file.name)
        if len(written) == 3:
            raise OSError("no space left on device")
        write(file, content)

    monkeypatch.setattr(scaffold, "_lock", lambda _folder, _say: None)
    with monkeypatch.context() as patched:
        patched.setattr(scaffold, "write_whole", full)
        with pytest.raises(OSError, match="no space left"):
            scaffold.new("marketing", lambda _line: None)
    assert git(root, "status", "--porcelain") == ""

    scaffold.new("marketing", lambda _line: None)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "new")
    written.clear()
    monkeypatch.setattr(scaffold, "write_whole", full)
    with pytest.raises(OSError, match="no space left"):
        scaffold.remove("marketing", forced=False)
    assert git(root, "status", "--porcelain") == ""


def test_what_is_saved_while_it_is_locked_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(_folder: Path, _say: scaffold.Say) -> None:
        with (root / "docker-compose.yml").open("a") as compose:
            compose.write("# saved meanwhile\n")

    monkeypatch.setattr(scaffold, "_lock", save)
    scaffold.new("marketing", lambda _line: None)
    compose = (root / "docker-compose.yml").read_text()
    assert compose.endswith("# saved meanwhile\n")
    assert "taxi_shared.server, marketing" in compose


def test_the_folder_of_a_new_that_was_killed_is_named(root: Path) -> None:
    (root / "locations" / "marketing").mkdir()
    with pytest.raises(CodelocError, match="remove the folder"):
        scaffold.new("marketing", lambda _line: None)


@pytest.mark.parametrize(
    ("file", "before", "line", "named"),
    [
        (
            "docker-compose.yml",
            "\n  marketing:\n",
            "      - lake-marketing:/data/lakes/marketing:ro\n",
            "service analytics: lake-marketing:",
        ),
        (
            "docker-compose.yml",
            "\n  marketing:\n",
            "    depends_on: { marketing: { condition: service_started } }\n",
            "service analytics: depends_on marketing",
        ),
        (
            "docker-compose.yml",
            "\nnetworks:\n",
            "\n  another:\n    image: *marketing-image\n",
            "undefined alias 'marketing-image'",
        ),
        ("pyproject.toml", 'marts = "analytics"\n', 'campaigns = "marketing"\n', "bi_schemas., campaigns"),
    ],
    ids=["lake", "dependency", "image", "schema"],
)
def test_a_location_that_is_named_elsewhere_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch, file: str, before: str, line: str, named: str
) -> None:
    monkeypatch.setattr(scaffold, "_lock", lambda _folder, _say: None)
    scaffold.new("marketing", lambda _line: None)
    text = (root / file).read_text()
    assert text.count(before) == 1
    (root / file).write_text(text.replace(before, line + before))
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "named")
    with pytest.raises(CodelocError, match=named):
        scaffold.remove("marketing", forced=True)
    assert git(root, "status", "--porcelain") == ""


def test_entries_that_were_changed_by_hand_are_left_to_the_hand(root: Path) -> None:
    scaffold.new("marketing", lambda _line: None)
    compose = root / "docker-compose.yml"
    compose.write_text(
        compose.read_text().replace("command: [python, -m, taxi_shared.server, marketing]", "command: []")
    )
    with pytest.raises(CodelocError, match="changed by hand"):
        scaffold.remove("marketing", forced=True)
    assert (root / "locations" / "marketing").is_dir()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Marketing", "small letters"),
        ("two-words", "small letters"),
        ("9lives", "small letters"),
        ("class", "small letters"),
        ("ends_", "small letters"),
        ("two__words", "small letters"),
        ("true", "YAML's"),
        ("off", "YAML's"),
        ("a_name_of_many_characters", "20 characters"),
        ("analytics", "taken"),
        ("shared", "taken"),
        ("reader", "taken"),
        ("webserver", "taken"),
        ("memory", "taken"),
        ("pg_lake", "taken"),
        ("json", "taken"),
        ("requests", "taken"),
    ],
)
def test_a_name_that_cannot_be_had_is_refused(root: Path, name: str, reason: str) -> None:
    with pytest.raises(CodelocError, match=reason):
        scaffold.new(name, lambda _line: None)
    assert git(root, "status", "--porcelain") == ""
