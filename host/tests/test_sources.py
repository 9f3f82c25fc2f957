"""What a package is made from, on small repositories of git's own making."""

import os
import subprocess
from pathlib import Path

import pytest
from codeloc import sources, workspace
from codeloc.errors import CodelocError
from codeloc.sources import affected, at_revision, causes, export, inputs, working_tree

DOCKERFILE = """FROM python AS build
COPY shared/pyproject.toml /app/shared/
COPY locations/one/pyproject.toml \\
     locations/one/uv.lock ./
COPY --chown=1:1 shared/src /app/shared/src
COPY locations/one/src src
FROM python
COPY --from=build /app/elsewhere elsewhere
"""
FILES = {
    ".gitignore": "*.log\n",
    "workspace.yaml": "load_from:\n- grpc_server: {location_name: one, socket: run/one/current}\n",
    "pyproject.toml": "",
    "uv.lock": "",
    "conftest.py": "",
    "docker-compose.yml": "services: {}\n",
    "README.md": "words\n",
    "tests/test_all.py": "",
    "host/Dockerfile": "COPY host/src src\nCOPY workspace.yaml ./\n",
    "host/pyproject.toml": "",
    "host/src/codeloc/__init__.py": "",
    "host/tests/test_host.py": "",
    "shared/pyproject.toml": "",
    "shared/src/taxi_shared/__init__.py": "",
    "shared/tests/test_shared.py": "",
    "locations/one/Dockerfile": DOCKERFILE,
    "locations/one/pyproject.toml": '[tool.uv.sources]\ntaxi-shared = { path = "../../shared" }\n',
    "locations/one/uv.lock": "version = 1\n",
    "locations/one/src/one/__init__.py": "",
    "locations/one/tests/test_one.py": "",
}


def git(root: Path, *words: str) -> str:
    names = {f"GIT_{who}_{what}": "someone" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        ["git", *words], cwd=root, env=os.environ | names | settings, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one location, outside of git."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    monkeypatch.setattr(workspace, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def root(plain: Path) -> Path:
    """The same, committed."""
    git(plain, "init", "--quiet")
    git(plain, "add", ".")
    git(plain, "commit", "--quiet", "-m", "first")
    return plain


def test_a_location_is_made_from_what_its_dockerfile_copies(plain: Path) -> None:
    assert inputs("one") == [
        "locations/one/Dockerfile",
        "locations/one/pyproject.toml",
        "locations/one/src",
        "locations/one/uv.lock",
        "shared/pyproject.toml",
        "shared/src",
    ]


def test_a_package_that_is_depended_on_by_its_path_must_be_copied(plain: Path) -> None:
    file = plain / "locations/one/pyproject.toml"
    file.write_text('[tool.uv.sources]\nother = { path = "../../other" }\n')
    with pytest.raises(
        CodelocError, match=r"locations/one/pyproject\.toml depends on other, and .*Dockerfile does not"
    ):
        inputs("one")


def test_a_package_without_a_dockerfile_is_named(plain: Path) -> None:
    (plain / "locations/one/Dockerfile").unlink()
    with pytest.raises(CodelocError, match="there is no locations/one/Dockerfile"):
        inputs("one")


def test_the_ids_of_contents_are_those_of_git(root: Path) -> None:
    source = working_tree("one")
    for path, blob in source.files.items():
        assert blob == git(root, "rev-parse", f"HEAD:{path}")
    assert source == at_revision("one", "HEAD")
    assert not source.dirty
    assert source.version == f"{git(root, 'rev-parse', 'HEAD')[:7]}-{source.digest[:8]}"


def test_without_git_the_content_alone_says_the_version(plain: Path) -> None:
    source = working_tree("one")
    assert (source.commit, source.dirty) == (None, False)
    assert source.version == f"nogit-{source.digest[:8]}"
    with pytest.raises(CodelocError, match="no revision 'HEAD'"):
        at_revision("one", "HEAD")


def test_a_repository_without_the_program_git_is_read_as_well(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = working_tree("one").digest
    monkeypatch.setenv("PATH", str(root / "nowhere"))
    assert working_tree("one").version == f"nogit-{digest[:8]}"


def test_a_file_that_git_does_not_know_yet_counts(root: Path) -> None:
    clean = working_tree("one")
    (root / "locations/one/src/one/more.py").write_text("")
    source = working_tree("one")
    assert source.dirty
    assert source.digest != clean.digest
    assert source.version == f"{clean.version[:7]}-dirty-{source.digest[:8]}"


@pytest.mark.parametrize(
    "made", ["one/a.log", "one/__pycache__/a.pyc", ".venv/lib/a.py", "one/.mypy_cache/a.json", "one/.ruff_cache/a"]
)
def test_what_is_ignored_or_made_by_tools_does_not_count(root: Path, made: str) -> None:
    before = working_tree("one")
    file = root / "locations/one/src" / made
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("made")
    assert working_tree("one") == before


def test_a_tracked_file_counts_whatever_is_ignored(root: Path) -> None:
    (root / "locations/one/src/one/kept.log").write_text("kept")
    git(root, "add", "--force", ".")
    assert "locations/one/src/one/kept.log" in working_tree("one").files


def test_a_link_counts_as_where_it_points(root: Path) -> None:
    (root / "locations/one/src/one/link.py").symlink_to("__init__.py")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "link")
    assert working_tree("one") == at_revision("one", "HEAD")


def test_a_file_changed_back_is_clean_again(root: Path) -> None:
    before = working_tree("one")
    file = root / "locations/one/src/one/__init__.py"
    file.write_text("changed = 1\n")
    assert working_tree("one").dirty
    file.write_text("")
    assert working_tree("one") == before


def test_changes_elsewhere_leave_a_location_as_it_is(root: Path) -> None:
    before = working_tree("one")
    for path in ("README.md", "host/src/codeloc/__init__.py", "locations/one/tests/test_one.py"):
        (root / path).write_text("changed = 1\n")
    assert working_tree("one") == before


@pytest.mark.parametrize(
    ("path", "packages"),
    [
        ("README.md", set()),
        ("shared/src/taxi_shared/__init__.py", {"shared", "one", "tests"}),
        ("shared/tests/test_shared.py", {"shared", "tests"}),
        ("locations/one/src/one/__init__.py", {"one", "tests"}),
        ("locations/one/tests/test_one.py", {"one", "tests"}),
        ("locations/one/Dockerfile", {"one", "tests"}),
        ("host/src/codeloc/__init__.py", {"host", "tests"}),
        ("host/tests/test_host.py", {"host", "tests"}),
        ("workspace.yaml", {"host", "tests"}),
        ("tests/test_all.py", {"tests"}),
        # The tests across packages start the deployment as these describe it.
        ("docker-compose.yml", {"tests"}),
    ],
)
def test_a_change_affects_the_packages_that_are_made_from_it(root: Path, path: str, packages: set[str]) -> None:
    assert affected("HEAD") == {}
    (root / path).write_text((root / path).read_text() + "# changed\n")
    found = affected("HEAD")
    assert set(found) == packages
    assert all(paths == [path] for paths in found.values() if paths)


def test_a_file_that_is_gone_affects_its_package(root: Path) -> None:
    (root / "locations/one/src/one/__init__.py").unlink()
    assert affected("HEAD")["one"] == ["locations/one/src/one/__init__.py"]


@pytest.mark.parametrize("revision", ["nowhere", "--help", ""])
def test_a_revision_that_does_not_exist_is_named(root: Path, revision: str) -> None:
    with pytest.raises(CodelocError, match=f"no revision '{revision}'"):
        affected(revision)


def test_a_location_that_did_not_exist_had_no_files(root: Path) -> None:
    assert at_revision("later", "HEAD").files == {}


def test_what_differs_is_told_by_kind() -> None:
    changed = {
        "locations/one/src/one/a.py": "code",
        "locations/one/uv.lock": "lock",
        "locations/one/Dockerfile": "Dockerfile",
        "locations/one/pyproject.toml": "packaging",
        "shared/src/taxi_shared/b.py": "shared",
    }
    before = dict.fromkeys([*changed, "locations/one/src/one/same.py"], "1")
    now = before | dict.fromkeys(changed, "2") | {"locations/one/src/one/new.py": "3"}
    assert causes(before, now, "one") == {
        "code": ["locations/one/src/one/a.py", "locations/one/src/one/new.py"],
        "lock": ["locations/one/uv.lock"],
        "Dockerfile": ["locations/one/Dockerfile"],
        "packaging": ["locations/one/pyproject.toml"],
        "shared": ["shared/src/taxi_shared/b.py"],
    }
    assert causes({}, now, "one") == {}


def test_a_revision_is_written_as_it_was(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (root / "README.md").write_text("changed\n")
    folder = tmp_path_factory.mktemp("exported")
    export("HEAD", folder)
    assert (folder / "README.md").read_text() == FILES["README.md"]
