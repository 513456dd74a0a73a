"""docs/architecture.md names each module of gloom, in the words of the module's own docstring."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.deployment import CHECKOUT

PAGE = (CHECKOUT / "docs" / "architecture.md").read_text()
MODULES = sorted(path for path in (CHECKOUT / "gloom").rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
ROW = re.compile(r"^\| `gloom/(\S+\.py)` \| (.+) \|$", re.MULTILINE)


def purpose(source: str) -> str:
    """Return the first sentence or line of a module's docstring."""
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0].replace("``", "`")


def rows() -> list[str]:
    """Return the rows that the page should have."""
    return sorted(
        f"| `{path.relative_to(CHECKOUT)}` | {purpose(path.read_text()).removesuffix('.')} |" for path in MODULES
    )


def test_each_module_has_its_row() -> None:
    """A newcomer finds each module in the page, and no module that is gone."""
    assert sorted(found[0] for found in ROW.finditer(PAGE)) == rows()


@pytest.mark.parametrize("package", sorted({path.parent for path in MODULES}), ids=lambda path: path.name)
def test_each_package_says_its_one_job(package: object) -> None:
    """Each package's docstring begins with a sentence about its one job."""
    assert purpose((package / "__init__.py").read_text()).endswith(".")  # type: ignore[operator]


@pytest.mark.parametrize(
    "path",
    re.findall(r"`((?:gloom|tests|verify|bench|deploy|docs)/[\w./-]*)`", (CHECKOUT / "CONTRIBUTING.md").read_text()),
)
def test_the_places_of_changes_exist(path: str) -> None:
    """Each path in CONTRIBUTING is a file or a folder of the checkout."""
    assert (CHECKOUT / path).exists()
