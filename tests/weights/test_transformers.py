"""transformers' folders: read as they mean it, and refused when they lie."""

from hf_folders import TINY
from hf_folders import TINY2
from hf_folders import change
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors

from siglip_jax import losses
from siglip_jax.errors import UserError
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.weights import transformers


@pytest.mark.parametrize("tiny", [TINY, TINY2])
def test_embeddings_logits_and_loss_are_transformers(tiny):
  found = transformers.read(tiny)
  expected = np.load(tiny / "expected.npz")
  model = TwoTowers(**found.model)
  zimg = jax.jit(model.encode_image)(found.params, expected["image"])
  ztxt = jax.jit(model.encode_text)(found.params, expected["text"])
  np.testing.assert_allclose(zimg, expected["zimg"], atol=1e-5)
  np.testing.assert_allclose(ztxt, expected["ztxt"], atol=1e-5)
  t, b = jnp.asarray(found.params["t"][0]), jnp.asarray(found.params["b"][0])
  logits = jnp.exp(t) * zimg @ ztxt.T + b
  np.testing.assert_allclose(logits, expected["logits"], atol=1e-5, rtol=1e-5)
  loss = losses.sigmoid_loss(zimg, ztxt, t, b)
  np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)
  assert found.image_size == 32 and found.text_len == 16


def test_a_siglip2_model_is_taken_at_its_square_grid(caplog):
  assert transformers.read(TINY).tokenizer is None
  assert not caplog.text
  found = transformers.read(TINY2)
  assert "hf_siglip2_tiny is a Siglip2Model, taken at its own 16 posi" in (
      caplog.text
  )
  assert "resized to 32 x 32, whatever their shape" in caplog.text
  assert found.tokenizer == TINY2 / "tokenizer.model"
  assert (
      found.image == "decode|resize(32, method='bilinear')|value_range(-1, 1)"
  )
  assert found.text == (
      "lower('characters')|tokenize(max_len=16, model='tokenizer.model',"
      " eos='sticky', pad_value=0)"
  )
  kernel = found.params["img"]["embedding"]["kernel"]
  assert kernel.shape == (8, 8, 3, 48)


def test_what_is_written_is_what_was_read(tmp_path):
  found = transformers.read(str(TINY))
  transformers.write(tmp_path / "new", found.params, image_size=32)
  path = "model.safetensors"
  saved = safetensors.load_file(TINY / path)
  again = safetensors.load_file(tmp_path / "new" / path)
  assert saved.keys() == again.keys()
  for name, x in saved.items():
    np.testing.assert_array_equal(again[name], x)
  assert transformers.read(tmp_path / "new").model == found.model
  modes = {p.stat().st_mode for p in (tmp_path / "new").iterdir()}
  assert len(modes) == 1


def test_a_folder_in_parts_in_half_precision_with_old_buffers(folder):
  saved = safetensors.load_file(folder / "model.safetensors")
  (folder / "model.safetensors").unlink()
  kinds = (np.float16, ml_dtypes.bfloat16)
  half = {n: x.astype(kinds[i % 2]) for i, (n, x) in enumerate(saved.items())}
  half["vision_model.embeddings.position_ids"] = np.arange(16)[None]
  names = sorted(half)
  parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
  for file, members in parts.items():
    safetensors.save_file({n: half[n] for n in members}, folder / file)
  index = {n: file for file, members in parts.items() for n in members}
  change(folder, "model.safetensors.index.json", weight_map=index)
  found = transformers.read(folder)
  embedding = found.params["txt"]["Embed_0"]["embedding"]
  name = "text_model.embeddings.token_embedding.weight"
  assert embedding.dtype == np.float32
  np.testing.assert_array_equal(embedding, half[name].astype(np.float32))
  change(folder, "model.safetensors.index.json", weight_map={"a": "../x"})
  with pytest.raises(UserError, match="to files beside it"):
    transformers.read(folder)
  change(folder, "model.safetensors.index.json", weight_map={"a": "gone"})
  with pytest.raises(UserError, match="gone, which is not there"):
    transformers.read(folder)


@pytest.mark.parametrize(
    "values, match",
    [
        ({"model_type": "siglip2"}, "expected 2 dims. Received 4-dim"),
        ({"text_config__num_hidden_layers": 4}, "16 are missing"),
        ({"text_config__num_hidden_layers": 2}, "16 are unknown"),
        (
            {"vision_config__image_size": 40},
            r"shapes its config.json says: img/pos_embedding \(1, 25, 48\)",
        ),
        (
            {"vision_config__num_attention_heads": 5},
            "do not have the shapes .* axis of length 48 in chunks of 5",
        ),
        ({"text_config__projection_size": 5}, "txt/head/bias .5,.; got .48,"),
    ],
)
def test_a_config_that_is_not_the_weights_is_named(folder, values, match):
  change(folder, **values)
  with pytest.raises(UserError, match=match):
    transformers.read(folder)


def test_a_siglip2_config_that_is_not_the_weights(folder2):
  change(folder2, model_type="siglip")
  with pytest.raises(UserError, match="do not have the shapes"):
    transformers.read(folder2)


def test_a_siglip2_folder_of_no_processor(folder2):
  (folder2 / "preprocessor_config.json").unlink()
  (folder2 / "tokenizer.model").unlink()
  found = transformers.read(folder2)
  assert found.image == transformers.read(TINY2).image
  assert "pad_value=0" in found.text and found.tokenizer is None
  change(folder2, vision_config__num_patches=25)
  with pytest.raises(UserError, match=r"img/pos_embedding \(1, 25, 48\); got"):
    transformers.read(folder2)
  change(folder2, vision_config__num_patches=16, vision_config__patch_size=4)
  with pytest.raises(UserError, match=r"kernel \(4, 4, 3, 48\); got"):
    transformers.read(folder2)


def test_the_same_model_is_the_same_file(tmp_path):
  params = transformers.read(TINY).params
  files = set()
  for _ in range(10):
    transformers.write(tmp_path, params, image_size=32)
    files.add((tmp_path / "model.safetensors").read_bytes())
  assert len(files) == 1


def test_a_flipped_bit_of_what_was_written_here_is_seen(tmp_path):
  transformers.write(tmp_path, transformers.read(TINY).params, image_size=32)
  path = tmp_path / "model.safetensors"
  whole = path.read_bytes()
  for place in (len(whole) // 2, len(whole) - 1):
    damaged = bytearray(whole)
    damaged[place] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="safetensors is damaged: its tensors"):
      transformers.read(tmp_path)
  path.write_bytes(whole)
  assert transformers.read(tmp_path).image_size == 32


def test_missing_and_damaged_files_are_named(folder, tmp_path):
  weights = folder / "model.safetensors"
  whole = weights.read_bytes()
  for keep in (0, 7, 1000, len(whole) - 1):
    weights.write_bytes(whole[:keep])
    with pytest.raises(UserError, match="model.safetensors is damaged"):
      transformers.read(folder)
  weights.unlink()
  with pytest.raises(UserError, match="no model.safetensors in"):
    transformers.read(folder)
  (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
  with pytest.raises(UserError, match="pickle.*save_pretrained"):
    transformers.read(folder)
  for content, match in (("{", "not JSON, or damaged"), ("[]", "JSON object")):
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=match):
      transformers.read(folder)
  (folder / "config.json").unlink()
  with pytest.raises(UserError, match="There is no .*config.json"):
    transformers.read(folder)
  with pytest.raises(UserError, match="There is no .*gone: expected a folder"):
    transformers.read(tmp_path / "gone")
  with pytest.raises(UserError, match="npz is a file"):
    transformers.read("tests/fixtures/big_vision_tiny.npz")


def test_files_of_no_sense_are_named(folder, tmp_path):
  def refuse(match):
    with pytest.raises(UserError, match=match):
      transformers.read(folder)

  config, weights = folder / "config.json", folder / "model.safetensors"
  right = config.read_text()
  config.write_text("[" * 200_000)
  assert transformers.is_folder(folder)
  refuse("config.json is not JSON, or damaged")
  config.unlink()
  config.mkdir()
  refuse("There is no .*config.json")
  config.rmdir()
  config.write_text(right)
  change(folder, text_config__vocab_size=2**63)
  refuse("at most 16777216; got 9223372036854775808")
  config.write_text(right)
  header = b'{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
  weights.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
  refuse("weights must be float32, float16 or bfloat16; .*float8")
  weights.unlink()
  weights.mkdir()
  refuse("no model.safetensors in .*: copy it there")
  (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"\x80")
  refuse("pytorch_model-00001-of-00002.bin, a pickle")
  for name in ("", "..", "."):
    change(folder, "model.safetensors.index.json", weight_map={"a": name})
    refuse("must map tensors to files beside it")
