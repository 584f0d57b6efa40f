"""config.init: weights of every origin put into a model, or refused."""

import dataclasses

import jax
import pytest
from small_towers import SPEC
from small_towers import assert_trees_equal
from small_towers import shapes
import toy

from siglip_jax import init
from siglip_jax import sharding
from siglip_jax import weights as weights_lib
from siglip_jax.errors import UserError
from siglip_jax.models import zoo
from siglip_jax.run import Run
from siglip_jax.weights import big_vision


@pytest.mark.parametrize(
    "section, match",
    [
        ({"im": {"path": "x"}}, "config.init has no 'im'"),
        ({"img": {}}, "config.init.img.path is missing"),
        ({"img": {"path": "x", "dontload": []}}, "img has no 'dontload'; did"),
        ({"t": {"path": "x", "dont_load": "t"}}, "must be of type Sequence"),
        ({"t": {"path": "x", "step": "8"}}, "t.step must be of type"),
        (
            {"txt": {"path": "x", "dont_load": ["a", 3]}},
            "config.init.txt.dont_load must be regular expressions; got 3",
        ),
    ],
)
def test_the_section_is_checked_before_anything_is_read(section, match):
  init.check({"img": {"path": "gone", "dont_load": ["head/.*"]}})
  with pytest.raises(UserError, match=match):
    init.check(section)


def test_every_array_of_every_part_is_put_into_the_runs_shards(
    params, npz, capsys
):
  rules = [(".*/Dense_0/kernel", ("fsdp", None)), (".*", "replicate")]
  c = toy.config(mesh=dict(data=2, fsdp=4), sharding=rules)
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
  c = toy.config(optim=dict(lr=1.0, schedule=[("img/.*", None), (".*", {})]))
  run = Run(c, sharding.make_mesh())
  monkeypatch.setattr(run, "init", lambda: run.state_shapes)
  assert init.begin(run, SPEC) is run.state_shapes
  assert "locks all of img at random" in caplog.text
  assert "txt" not in caplog.text


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
    patch.setattr(weights_lib, "read", lambda path, step: there)
    section = {"txt": dict(path="x")}
    with pytest.raises(UserError, match="trained with another tokenizer"):
      init.read(section, shapes(), SPEC)
    section["txt"]["dont_load"] = ["Embed_0/.*"]
    _, notes = init.read(section, shapes(), SPEC)
  (note,) = notes
  assert note.startswith("txt: x was trained with text preprocessing lower|")


def test_a_released_models_sizes_with_another_tokenizer_are_noted(
    params, monkeypatch
):
  def notes(digest):
    variant = dataclasses.replace(
        zoo.get("siglip-b16-224"), tokenizer_sha256=digest
    )
    weights = weights_lib.Weights(
        path="x", kind="npz", params=params, checked=variant
    )
    monkeypatch.setattr(weights_lib, "read", lambda path, step: weights)
    return init.read({"txt": dict(path="x")}, shapes(), SPEC)[1]

  assert notes(None) == notes(SPEC["tokenizer_digest"]) == []
  (note,) = notes("1" * 64)
  assert note.startswith("txt: x has the sizes of siglip-b16-224, whose tok")
  assert "has sha256 111111111111...; this config's has d..." in note


def test_parts_may_come_from_different_steps_of_a_run(monkeypatch):
  read = []

  def read_once(path, step):
    read.append((path, step))
    return weights_lib.Weights(path=path, kind="workdir", params={}, step=step)

  monkeypatch.setattr(weights_lib, "read", read_once)
  section = {
      "img": dict(path="run", step=8),
      "t": dict(path="run"),
      "b": dict(path="run", step=8),
  }
  init.check(section)
  found = init.weights(section)
  assert {part: w.step for part, w in found.items()} == dict(img=8, t=None, b=8)
  assert found["img"] is found["b"] and len(read) == 2
