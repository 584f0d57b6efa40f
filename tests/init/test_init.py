"""config.init: weights of every origin put into a model, or refused."""

import io
import re

import fsspec
import jax
import numpy as np
import pytest
from rich import console as rich_console
from test_step import config

from siglip_jax import init
from siglip_jax import sharding
from siglip_jax import tree
from siglip_jax import weights as weights_lib
from siglip_jax.errors import UserError
from siglip_jax.init import fit
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.run import Run
from siglip_jax.weights import big_vision
from siglip_jax.weights import layouts
from siglip_jax.weights import old_vits
from siglip_jax.weights import places

SPEC = dict(image="decode", text='tokenize(8, model="t")', tokenizer_digest="d")


def model(**changes):
  """Two small towers; "tok" so that there is a class token to lose."""
  options = config().model.to_dict()
  options["image"] |= dict(depth=2, pool_type="tok")
  return TwoTowers(**(options | changes))


@pytest.fixture(scope="module")
def params():
  rng = np.random.default_rng(0)  # no zeros, which would look like no change
  return jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(np.float32), shapes()
  )


@pytest.fixture(scope="module")
def npz(params, tmp_path_factory):
  path = tmp_path_factory.mktemp("npz") / "model.npz"
  big_vision.write(path, params)
  return path


def shapes(side=16, **changes):
  towers = model(**changes)
  return jax.eval_shape(
      lambda key: towers.init(key, (side, side, 3), 8), jax.random.key(0)
  )


def read(path, shapes, **options):
  """Fitted arrays of img by name."""
  section = {"img": dict(path=str(path)) | options}
  return init.read(section, shapes, SPEC)[0]["img"]


def augreg(img):
  """An image tower as AugReg's files have it."""
  old = jax.tree.map(np.copy, img)
  encoder = old["Transformer"]
  for block in [encoder[f"encoderblock_{i}"] for i in range(2)]:
    block["MultiHeadDotProductAttention_1"] = block.pop(
        "MultiHeadDotProductAttention_0"
    )
    block["LayerNorm_2"] = block.pop("LayerNorm_1")
    block["MlpBlock_3"] = block.pop("MlpBlock_0")
  row = np.full_like(old["cls"], 0.5)
  positions = np.concatenate([row, old.pop("pos_embedding")], axis=1)
  encoder["posembed_input"] = {"pos_embedding": positions}
  old["cls"] -= row
  old["head"] = {"kernel": np.zeros((64, 9), np.float32)}
  old["pre_logits"] = {"kernel": np.zeros((64, 64), np.float32)}
  return old


def assert_trees_equal(a, b):
  a, b = tree.flatten(a), tree.flatten(b)
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_every_array_of_every_part_is_put_into_the_runs_shards(
    params, npz, capsys
):
  rules = [(".*/Dense_0/kernel", ("fsdp", None)), (".*", "replicate")]
  c = config(mesh=dict(data=2, fsdp=4), sharding=rules)
  c.model.image.update(depth=2, pool_type="tok")
  c.init = {part: dict(path=str(npz)) for part in init.PARTS}
  run = Run(c, sharding.make_mesh(**c.mesh))
  state = init.begin(run, SPEC)
  assert_trees_equal(params, jax.device_get(state.params))
  for array, placed in zip(
      jax.tree.leaves(state.params),
      jax.tree.leaves(run.shardings.params),
      strict=True,
  ):
    assert array.sharding == placed
    parts = {shard.data.size for shard in array.addressable_shards}
    assert parts == {array.size // (1 if placed.is_fully_replicated else 4)}
  lines = capsys.readouterr().out.splitlines()
  assert sum("loaded" in line for line in lines) == 4


def test_a_run_without_init_is_untouched_and_locked_noise_is_named(
    caplog, monkeypatch
):
  c = config(optim=dict(lr=1.0, schedule=[("img/.*", None), (".*", {})]))
  run = Run(c, sharding.make_mesh())
  monkeypatch.setattr(run, "init", lambda: run.state_shapes)
  assert init.begin(run, SPEC) is run.state_shapes
  assert "locks all of img at random" in caplog.text
  assert "txt" not in caplog.text


@pytest.mark.parametrize("there, here", [(False, True), (True, False)])
def test_blocks_are_stacked_and_taken_apart(params, npz, there, here, tmp_path):
  if there:
    npz = tmp_path / "stacked.npz"
    big_vision.write(npz, layouts.scanned(params))
  found = read(npz, shapes(scan=here))
  assert any("encoderblock/" in n for n in found.arrays) == here
  expected = layouts.scanned(params) if here else params
  assert_trees_equal(tree.unflatten(found.arrays), expected["img"])


def test_augregs_layout_becomes_an_image_tower(params, tmp_path):
  path = tmp_path / "augreg.npz"
  np.savez(path, **tree.flatten(augreg(params["img"])))
  found = read(path, shapes())
  arrays = tree.flatten(params["img"])
  np.testing.assert_allclose(found.arrays["cls"], arrays.pop("cls"), rtol=1e-6)
  assert_trees_equal(
      {k: v for k, v in found.arrays.items() if k != "cls"}, arrays
  )
  assert found.unknown == ["head/kernel", "pre_logits/kernel"]
  assert not found.initial


@pytest.mark.parametrize("place", ["Transformer", "posembed_input", "top"])
def test_positions_are_found_in_all_three_places(params, place):
  img = jax.tree.map(np.copy, params["img"])
  positions = img.pop("pos_embedding")
  old = {
      "Transformer": {"Transformer": {"pos_embedding": positions}},
      "posembed_input": {
          "Transformer": {"posembed_input": {"pos_embedding": positions}}
      },
      "top": {"pos_embedding": positions},
  }[place]
  assert_trees_equal(old_vits.modern(tree.merge(img, old)), params["img"])


def test_blocks_beyond_nine_keep_their_order():
  blocks = {
      f"encoderblock_{i}": {"LayerNorm_2": {"scale": np.float32([i])}}
      for i in range(12)
  }
  found = old_vits.modern({"Transformer": blocks, "embedding": {}})
  for i in range(12):
    block = found["Transformer"][f"encoderblock_{i}"]
    assert block["LayerNorm_0"]["scale"] == i


def test_an_inlined_map_head_becomes_a_module():
  inlined = {
      "probe": np.zeros(1),
      "LayerNorm_0": {"scale": np.zeros(2)},
      "MlpBlock_0": {"Dense_0": {"kernel": np.zeros(3)}},
      "MultiHeadDotProductAttention_0": {"out": {"kernel": np.zeros(4)}},
  }
  found = old_vits.modern(inlined | {"Transformer": {}, "embedding": {}})
  assert_trees_equal(found["MAPHead_0"], inlined)


def test_positions_are_resampled_bilinearly_with_their_corners(params, npz):
  found = read(npz, shapes(side=32))
  assert found.resampled == {"pos_embedding": "2x2 to 4x4"}
  old = params["img"]["pos_embedding"].reshape(2, 2, 64)
  new = found.arrays["pos_embedding"].reshape(4, 4, 64)
  for old_i, new_i in ((0, 0), (1, 3)):
    for old_j, new_j in ((0, 0), (1, 3)):
      np.testing.assert_allclose(new[new_i, new_j], old[old_i, old_j], 1e-6)
  np.testing.assert_allclose(
      new[1, 0], old[0, 0] * 2 / 3 + old[1, 0] / 3, rtol=1e-4, atol=1e-6
  )


def test_what_cannot_be_resampled_is_refused():
  with pytest.raises(UserError, match=r"\(1, 6, 4\) cannot be .* \(1, 9, 4\)"):
    fit.resample(np.zeros((1, 6, 4)), (1, 9, 4), where="here")
  with pytest.raises(UserError, match=r"\(1, 4, 8\) cannot be .* \(1, 9, 4\)"):
    fit.resample(np.zeros((1, 4, 8)), (1, 9, 4), where="here")


def test_dont_load_keeps_initial_values(npz):
  found = read(npz, shapes(), dont_load=["cls", ".*/MlpBlock_0/.*"])
  assert found.skipped == found.initial
  assert "cls" in found.initial and len(found.initial) == 1 + 2 * 4
  assert not set(found.initial) & found.arrays.keys()


def test_a_head_the_weights_lack_must_be_named(npz):
  wanted = shapes(out_dim=(64, 64))
  with pytest.raises(UserError, match="must be in the .*head/bias, head/kern"):
    read(npz, wanted)
  found = read(npz, wanted, dont_load=["head/.*"])
  assert found.initial == ["head/bias", "head/kernel"]
  assert not found.skipped


@pytest.mark.parametrize(
    "options, dont_load, match",
    [
        ({}, ["hed/.*"], "'hed/\\.\\*' matches none. Names are like Trans"),
        ({}, ["("], "'\\(' is no regular expression"),
        ({}, [".*"], "leaves nothing to load"),
        (dict(depth=3), [], "the weights have 2 blocks, the model 3"),
        (dict(depth=3, scan=True), [], "the weights have 2 blocks, .* 3"),
        (dict(mlp_dim=96), [], r"shape \(128,\) in the .* and \(96,\) in the"),
    ],
)
def test_what_does_not_fit_is_one_line(npz, options, dont_load, match):
  scan = options.pop("scan", False)
  image = model().image | options
  with pytest.raises(UserError, match=match):
    read(npz, shapes(image=image, scan=scan), dont_load=dont_load)


def test_parts_must_be_on_both_sides(params, tmp_path):
  path = tmp_path / "image.npz"
  big_vision.write(path, {"img": params["img"]})
  section = {"txt": dict(path=str(path))}
  with pytest.raises(UserError, match="image.npz has no 'txt'; it has img"):
    init.read(section, shapes(), SPEC)
  section = {"b": dict(path=str(path))}
  with pytest.raises(UserError, match="has no 'b'"):
    init.read(section, shapes(), SPEC)
  with pytest.raises(UserError, match="the model has no 'img'; it has b, t"):
    init.read(
        {"img": dict(path=str(path))}, {"b": None, "t": None, "txt": {}}, SPEC
    )


def test_the_table_is_short_and_says_what_became_of_all(params, tmp_path):
  path = tmp_path / "[old].npz"
  np.savez(path, **tree.flatten(augreg(params["img"])))
  section = {"img": dict(path=str(path), dont_load=["cls"])}
  fitted, notes = init.read(section, shapes(side=32), SPEC)
  out = rich_console.Console(file=io.StringIO(), width=100)
  init.table.show(
      {"img": "[old].npz"}, ["img", "txt", "t", "b"], fitted, notes, out
  )
  text = out.file.getvalue()
  for pattern in (
      "img .*loaded .* 37 .* from \\[old\\].npz",
      "resampled .* 1 .* pos_embedding, 2x2 to 4x4",
      "skipped by dont_load .* cls",
      "not in the model .* 2 .* head/\\*, pre_logits/\\*",
      "left at random .* 1 .* cls",
      "txt .* at random",
  ):
    assert any(re.search(pattern, line) for line in text.splitlines()), (
        pattern,
        text,
    )
  assert text.count("\n") < 16


def test_another_tokenizer_is_refused_unless_its_embedding_stays_out(params):
  there = weights_lib.Weights(
      path="x",
      kind="workdir",
      params=params,
      image="decode",
      text="lower|tokenize(8, model='u')",
      tokenizer_digest="e",
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(weights_lib, "read", lambda path: there)
    section = {"txt": dict(path="x")}
    with pytest.raises(UserError, match="trained with another tokenizer"):
      init.read(section, shapes(), SPEC)
    section["txt"]["dont_load"] = ["Embed_0/.*"]
    _, notes = init.read(section, shapes(), SPEC)
  (note,) = notes
  assert note.startswith("txt: x was trained with text preprocessing lower|")


def test_files_elsewhere_are_copied_and_left_no_trace(npz, params, tmp_path):
  fs = fsspec.filesystem("memory")
  fs.put(str(npz), "/bucket/model.npz")
  with places.local("memory://bucket/model.npz") as path:
    assert path.is_file()
  assert not path.exists()
  found = read("memory://bucket/model.npz", shapes())
  assert_trees_equal(tree.unflatten(found.arrays), params["img"])


def test_of_a_workdir_elsewhere_only_the_newest_parameters_are_copied(trained):
  fs = fsspec.filesystem("memory")
  fs.put(str(trained), "/runs/trained", recursive=True)
  with places.local("memory://runs/trained") as path:
    steps = [p.name for p in (path / "checkpoints").iterdir()]
    parts = {p.name for p in (path / "checkpoints" / "12").iterdir()}
  assert steps == ["12"] and parts == {"about", "params", "spec"}
  assert_trees_equal(
      weights_lib.read("memory://runs/trained").params,
      weights_lib.read(str(trained)).params,
  )


@pytest.mark.parametrize(
    "path, match",
    [
        ("memory://bucket/gone.npz", "no memory://bucket/gone.npz: expected"),
        ("elsewhere://x.npz", "cannot be reached: ImportError: Install it"),
        ("nosuch://bucket/x.npz", "cannot be reached: .*Protocol not known"),
        ("/gone", "no /gone: expected a workdir"),
        ("{tmp}", "holds no weights that are known"),
        ("{tmp}/text.npz", "text.npz is no .npz"),
        ("{tmp}/run", "no checkpoint in .*run/checkpoints"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, path, match):
  fsspec.register_implementation(
      "elsewhere", "no_such_package.Files", clobber=True, errtxt="Install it"
  )
  (tmp_path / "text.npz").write_text("hello")
  (tmp_path / "run" / "checkpoints").mkdir(parents=True)
  with pytest.raises(UserError, match=match):
    weights_lib.read(path.format(tmp=tmp_path))


def test_a_transformers_folder_gives_towers_and_how_to_feed_them():
  found = weights_lib.read("tests/fixtures/hf_siglip_tiny")
  assert set(found.params) == {"img", "txt", "t", "b"}
  assert "value_range(-1" in found.image and "tokenize" in found.text
  assert found.params["t"].shape == found.params["b"].shape == (1,)
