"""The programs of examples/ and the notebook run and print what they should."""

import importlib.util
import io
import json
from pathlib import Path
import re
from unittest import mock

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from PIL import Image
import pytest

import siglip_jax
from siglip_jax import losses
from siglip_jax import sharding
from siglip_jax.data import emoji
from siglip_jax.data import emoji_splits
from siglip_jax.errors import UserError

ROOT = Path(siglip_jax.__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebooks" / "siglip.ipynb"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
  """A data set as of `make train`, of one-colored images and few names."""
  names = emoji.load_names()
  things = sorted(i for i in names if "-" not in i)[::30]
  combined = ("1f3c3", "1f46e")  # a runner, a police officer
  modified = [i for i in names if emoji_splits.meaning(i).thing in combined]
  ids = sorted({*things, *modified})
  rng = np.random.default_rng(0)
  images = {
      emoji_splits.Drawing(i, style): rgba(rng.integers(0, 256, 3))
      for i in ids
      for style in emoji_splits.STYLES
  }
  folder = tmp_path_factory.mktemp("data")
  with (
      mock.patch.object(
          emoji, "load_names", lambda: {i: names[i] for i in ids}
      ),
      mock.patch.object(emoji, "load_images", lambda _: images),
  ):
    emoji.build(folder)
  return folder


def rgba(color) -> bytes:
  """A one-colored PNG of the data set's shape."""
  out = io.BytesIO()
  size = (emoji.SIZE, emoji.SIZE)
  Image.new("RGBA", size, (*map(int, color), 255)).save(out, format="png")
  return out.getvalue()


@pytest.fixture(scope="module")
def on_emoji(command, data_dir):
  """Runs a module, which must succeed, where emoji are the small ones."""

  def run(module, *arguments):
    where = f"TFDS_DATA_DIR={data_dir}"
    return command.run("with_env", where, module, *arguments, status=0)

  return run


@pytest.fixture(scope="module")
def focal(on_emoji, tmp_path_factory):
  """The workdir of examples/own_loss.py, and what it printed."""
  workdir = tmp_path_factory.mktemp("runs") / "focal"
  return workdir, on_emoji("examples.own_loss", workdir, 5).out


@pytest.fixture(scope="module")
def model(trained):
  return siglip_jax.load(trained)


def load(name):
  """An example as a module."""
  path = ROOT / "examples" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def printed(out: str) -> list[tuple[float, str]]:
  """Lines of a number and a name."""
  pairs = [line.split(maxsplit=1) for line in out.splitlines()]
  return [(float(x.strip("%")), name) for x, name in pairs]


def test_zero_shot_prints_the_most_probable_label_first(command, place, model):
  image, labels = place / "images" / "000.png", ["blue", "a red image", "tea"]
  out = command.run(
      "examples.zero_shot", place / "trained", image, *labels, status=0
  ).out
  got = printed(out)
  (expected,) = model.classify([image], labels)
  assert [p for p, _ in got] == sorted((p for p, _ in got), reverse=True)
  by_name = {name: p for p, name in got}
  assert by_name == pytest.approx(
      dict(zip(labels, 100 * expected, strict=True)), abs=0.11
  )


def test_search_folder_prints_the_nearest_images_of_all(command, place, model):
  folder, text = place / "images", "a green image"
  out = command.run(
      "examples.search_folder", place / "trained", folder, text, status=0
  ).out
  got = printed(out)
  paths = sorted(folder.glob("*.png"))
  cosines = model.encode_image(paths) @ model.encode_text([text])[0]
  expected = dict(zip(map(str, paths), cosines, strict=True))
  assert len(got) == len({name for _, name in got}) == 5
  for cosine, name in got:
    assert cosine == pytest.approx(expected[name], abs=1e-3)
  np.testing.assert_allclose(
      [cosine for cosine, _ in got], np.sort(cosines)[:-6:-1], atol=1e-3
  )


@pytest.mark.parametrize("name", ["zero_shot", "search_folder", "own_loss"])
def test_a_program_without_arguments_says_how_to_call_it(command, name):
  assert command.run(f"examples.{name}").status == 1
  assert f"  python examples/{name}.py " in load_doc(name)


def load_doc(name):
  return (ROOT / "examples" / f"{name}.py").read_text().split('"""')[1]


@pytest.fixture
def own_loss():
  """examples/own_loss.py, whose loss is forgotten after the test."""
  with mock.patch.dict(losses.LOSSES):
    yield load("own_loss")


def pairs(size=8):
  """Embeddings of a few pairs, and scalars."""
  z = np.random.default_rng(0).normal(size=(2, size, 4)).astype(np.float32)
  z /= np.linalg.norm(z, axis=-1, keepdims=True)
  return *map(jnp.asarray, z), jnp.log(10.0), jnp.float32(-3.0)


def test_the_focal_loss_at_gamma_0_is_the_sigmoid_loss(own_loss):
  focal = lambda *args: own_loss.focal_sigmoid_loss(*args, gamma=0.0)
  for f in (lambda f: f, lambda f: jax.grad(f, argnums=(0, 1, 2, 3))):
    got, expected = f(focal)(*pairs()), f(losses.sigmoid_loss)(*pairs())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
        got,
        expected,
    )


def test_the_config_sets_the_focal_losss_gamma(own_loss):
  loss = losses.make(
      sharding.make_mesh(),
      sharding.BATCH_AXES,
      name="focal_sigmoid",
      gamma=2.0,
  )
  zimg, ztxt, t_prime, b = pairs()
  params = {"t": t_prime[None], "b": b[None]}
  got = loss(zimg, ztxt, params, jax.random.key(0))
  # As the paper has it: (1 - p)^gamma, in float64.
  logits = 10.0 * np.asarray(zimg, np.float64) @ np.asarray(ztxt).T - 3.0
  right = np.where(np.eye(8) == 1, 1, -1)
  p = 1 / (1 + np.exp(-right * logits))
  expected = -np.sum((1 - p) ** 2 * np.log(p)) / 8
  assert float(got) == pytest.approx(expected, rel=1e-5)
  with pytest.raises(UserError, match="has no 'gama'; did you mean 'gamma'"):
    losses.make(
        sharding.make_mesh(),
        sharding.BATCH_AXES,
        name="focal_sigmoid",
        gama=2.0,
    )


def test_the_focal_losss_gradient_is_finite_where_all_is_right(own_loss):
  z = jnp.eye(8)
  focal = lambda *args: own_loss.focal_sigmoid_loss(*args, gamma=0.5)
  gradients = jax.grad(focal, argnums=(0, 1, 2, 3))(
      z, z, jnp.log(1e4), jnp.float32(-5e3)
  )
  assert all(np.isfinite(g).all() for g in gradients)


def test_own_loss_trains_with_its_loss(focal):
  workdir, out = focal
  assert re.findall(r"^step (\d)/5 loss", out, re.MULTILINE) == list("12345")
  assert f"Report: {workdir / 'report.html'}" in out
  config = json.loads((workdir / "config.json").read_text())
  assert config["loss"] == {"name": "focal_sigmoid", "gamma": 2.0}
  assert siglip_jax.load(workdir).encode_text(["a cat"]).shape == (1, 128)


@pytest.fixture
def lit(on_emoji, monkeypatch):
  """examples/lit_emoji.py, whose commands run in forks.

  They are the same commands; seven interpreters would take a minute.
  """
  lit = load("lit_emoji")
  monkeypatch.setattr(lit, "run", on_emoji)
  return lit


def test_lit_emoji_compares_two_runs_of_as_many_seconds(
    lit, focal, tmp_path, capsys
):
  tower, _ = focal
  assert lit.embed(tower, tmp_path / "embeddings") > 0
  counts = [
      json.loads((tmp_path / "embeddings" / s / "manifest.json").read_text())
      for s in lit.SPLITS
  ]
  assert [c["examples"] for c in counts] == [172, 8, 16, 6]
  # The time from scratch includes it, so a slow machine would train for long.
  (tmp_path / "embeddings" / "seconds.json").write_text("2.0")
  lit.compare(tower, tmp_path, "ja", steps=4, probe_steps=3)
  out = capsys.readouterr().out
  cells = {
      words[0]: words[1:]
      for words in (re.split(r"\s{2,}", x.strip()) for x in out.splitlines())
  }
  assert cells["LiT"] == ["from scratch", "ratio"]
  shown = [name.partition("/")[2] for name in lit.SHOWN]
  assert [n for n in cells if "@" in n or "/top" in n] == shown
  scores = [lit.scores(tmp_path / n) for n in ("ja_lit", "ja_scratch")]
  for name, short in zip(lit.SHOWN, shown, strict=True):
    for run, cell in zip(scores, cells[short], strict=False):
      low, high = 100 * run[f"{name}/low"], 100 * run[f"{name}/high"]
      assert cell == f"{100 * run[name]:.1f} ({low:.1f}-{high:.1f})"
  # Batches of 256 in LiT, of 32 from scratch and in the tower's five steps.
  config = json.loads((tmp_path / "ja_scratch" / "config.json").read_text())
  steps = config["total_steps"]
  rate = list(lit.rates(tmp_path / "ja_scratch_probe").values())[-1]
  assert cells["examples"][:2] == ["1,024", f"{32 * steps:,}"]
  seconds = lit.cost(tmp_path / "ja_lit")[1] + 2.0
  assert cells["seconds"][0] == f"{seconds:,.0f}"
  assert steps == max(round(seconds * rate / 32), 1)
  assert "includes 2 s of embedding" in out
  assert "and 160 examples to train" in out


def test_lit_emoji_embeds_once(tmp_path, monkeypatch):
  lit, runs = load("lit_emoji"), []
  monkeypatch.setattr(lit, "run", lambda *words: runs.append(words))
  (tmp_path / "embeddings").mkdir()
  for _ in range(2):
    seconds = lit.embed(Path("tower"), tmp_path / "embeddings")
    assert len(runs) == len(lit.SPLITS) and seconds >= 0


def test_lit_emoji_needs_a_tower(command):
  error = command.refuse("examples.lit_emoji", "--tower=nowhere")
  assert "nowhere is not a finished run: `make train` first" in error


def test_make_lit_runs_lit_emoji():
  recipe = (ROOT / "Makefile").read_text().partition("\nlit:")[2]
  assert "examples/lit_emoji.py --tower=" in recipe.splitlines()[1]
  assert "  python examples/lit_emoji.py --tower=" in load_doc("lit_emoji")


def test_each_example_is_tested():
  files = {p.name for p in (ROOT / "examples").iterdir()} - {"__pycache__"}
  source = Path(__file__).read_text()
  tested = re.findall(r'"examples\.(\w+)",|load\("(\w+)"\)', source)
  assert files == {f"{a or b}.py" for a, b in tested}


def cells():
  return json.loads(NOTEBOOK.read_text())["cells"]


def test_the_notebook_is_valid_and_has_no_outputs():
  notebook = json.loads(NOTEBOOK.read_text())
  assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
  assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
  assert notebook["metadata"]["kernelspec"]["name"] == "python3"
  ids = [cell["id"] for cell in cells()]
  assert len(ids) == len(set(ids))
  assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", i) for i in ids)
  kinds = [cell["cell_type"] for cell in cells()]
  assert kinds == ["markdown", "code"] * (len(kinds) // 2) + ["markdown"]
  for cell in cells():
    assert cell["metadata"] == {}
    assert all(isinstance(line, str) for line in cell["source"])
    assert all(line.endswith("\n") for line in cell["source"][:-1])
    is_code = cell["cell_type"] == "code"
    extra = {"execution_count", "outputs"} if is_code else set()
    assert set(cell) == {"cell_type", "id", "metadata", "source"} | extra
    assert not is_code or (cell["execution_count"], cell["outputs"]) == (
        None,
        [],
    )


@pytest.fixture
def notebook(monkeypatch, capsys):
  """Runs the notebook's code cells: (namespace, what each printed)."""
  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  def run(workdir, images=None, **changes):
    monkeypatch.chdir(NOTEBOOK.parent)  # where Jupyter starts
    monkeypatch.setenv("SIGLIP_RUN", str(workdir))
    if images:
      monkeypatch.setenv("SIGLIP_IMAGES", str(images))
    namespace, printed = {}, []
    for cell in cells():
      if cell["cell_type"] == "code":
        code = compile("".join(cell["source"]), cell["id"], "exec")
        exec(code, namespace)
        printed.append(capsys.readouterr().out)
        if len(printed) == 1:
          namespace |= changes
    return namespace, printed

  yield run
  plt.close("all")


def test_the_notebook_runs_on_emoji(notebook, focal, place):
  namespace, printed = notebook(focal[0], images=place / "images")
  start, loaded, classified, compared, searched, released = printed
  assert start == ""
  assert "images of 48 pixels: decode|resize(48)|value_range(-2,0)" in loaded
  model, names = namespace["model"], namespace["names"]
  assert len(names) == 8 and f"An image of unseen_combination: {names[0]}" in (
      classified
  )
  (probabilities,) = model.classify(namespace["images"][:1], names)
  order = [line.split("%  ")[1] for line in classified.splitlines()[1:]]
  assert order == [names[i] for i in (-probabilities).argsort()]
  matrix = namespace["similarity"]
  np.testing.assert_allclose(
      matrix, model.similarity(namespace["images"], names), rtol=1e-5
  )
  axes = namespace["axes"]
  (drawn,) = axes.get_images()
  np.testing.assert_array_equal(drawn.get_array(), matrix)
  ticks = [t.get_text().replace("\n", " ") for t in axes.get_xticklabels()]
  assert ticks == names
  own = (matrix.argmax(axis=1) == np.arange(8)).sum()
  assert f"{own} of 8 images are nearest" in compared
  lines = searched.splitlines()
  assert lines[0] == "48 images, embeddings of width 128; a red heart:"
  assert all(re.fullmatch(r" *-?[\d.]+  \d{3}\.png", x) for x in lines[1:])
  assert len(lines) == 6
  assert "WEIGHTS: google/siglip-base-patch16-224" in released
  assert "TOKENIZER: gs://t5-data/vocabs/cc_en.32000" in released


def test_the_notebook_runs_on_a_folder_and_on_other_weights(notebook, trained):
  fixture = ROOT / "tests" / "fixtures" / "hf_siglip2_tiny"
  namespace, printed = notebook(trained, WEIGHTS=fixture)
  assert "An image of colors: " in printed[2]
  assert printed[4] == "Set IMAGES to a folder of images to search it.\n"
  names, images = namespace["names"], namespace["images"]
  (expected,) = siglip_jax.load(fixture).classify(
      images[:1], names, templates=["a photo of a {}.", "{}"]
  )
  lines = printed[5].splitlines()
  assert len(lines) == len(names)
  assert lines[0] == f"{expected.max():6.1%}  {names[expected.argmax()]}"
