"""docs/theory.md: its links name what is there, its snippets run, its figure can be drawn and says what is true."""

import ast
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "theory.md").read_text()
LINKS = sorted(set(re.findall(r"\[`([^`]+)`\]\(([^)#]+\.py)\)", PAGE)))
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def figures():
    return runpy.run_path(str(DOCS / "figures.py"))


def defined(body, name):
    """Whether classes and functions in `body` hold `name`, dotted for what is in a class."""
    first, _, rest = name.partition(".")
    found = [d for d in body if isinstance(d, ast.ClassDef | ast.FunctionDef) and d.name == first]
    return bool(found) and (not rest or defined(found[0].body, rest))


@pytest.mark.parametrize(("name", "file"), LINKS)
def test_what_the_page_links_is_defined_there(name, file):
    path = DOCS / file
    assert path.is_file()
    assert name.endswith(path.name) or defined(ast.parse(path.read_text()).body, name)


def test_the_page_has_the_losses_and_its_snippets_run():
    assert {"discriminator_loss", "encoder_generator_loss", "jensen_shannon"} <= {name for name, _ in LINKS}
    assert "l0_autoencoder_terms" in {name for name, _ in LINKS}
    assert len(SNIPPETS) == 6
    for snippet in SNIPPETS:
        exec(compile(snippet, "docs/theory.md", "exec"), {})


def test_mathematics_is_closed_and_survives_markdown():
    text = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    display = re.findall(r"\$\$(.+?)\$\$", text, flags=re.DOTALL)
    text = re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL)
    inline = re.findall(r"\$([^$]+)\$", text)
    assert "$" not in re.sub(r"\$[^$]+\$", "", text)
    for formula in [*display, *inline]:
        assert formula.count("{") == formula.count("}"), formula
        assert not re.search(r"\\[^A-Za-z]|[*<>]", formula), f"Markdown would change {formula}"


def test_the_figure_is_drawn(figures, tmp_path):
    out = tmp_path / "new" / "hinge.png"
    figures["hinge_of_sum"](out)
    with Image.open(out) as new, Image.open(DOCS / "pictures" / "hinge_of_sum.png") as old:
        assert new.size == old.size
        assert np.asarray(new.convert("L")).std() > 20  # not a blank page
    assert out.stat().st_size < 120_000


def test_the_figure_shows_the_hinge_and_its_gradient(figures):
    x, z = np.random.default_rng(0).uniform(-3, 3, (2, 5, 7))
    value, push = figures["surface"](x, z, hinge_on_sum=False)
    np.testing.assert_allclose(value, np.maximum(0, 1 - x) + np.maximum(0, 1 - z))
    np.testing.assert_array_equal(push, [x < 1, z < 1])
    value, push = figures["surface"](x, z, hinge_on_sum=True)
    np.testing.assert_allclose(value, np.maximum(0, 1 - x - z))
    np.testing.assert_array_equal(push, [x + z < 1, x + z < 1])
