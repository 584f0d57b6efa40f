"""Flags that say which model to load."""

from pathlib import Path

from absl import flags as absl_flags
from absl.testing import flagsaver
import pytest

from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError
from siglip_jax.inference import flags
from siglip_jax.weights import workdirs

DATA = Path("tests/fixtures").absolute()


@pytest.fixture
def load():
  """Loads what a command line names."""
  with flagsaver.flagsaver():
    flags.define()

    def load(*words):
      with flagsaver.flagsaver():  # the next command line is another one
        absl_flags.FLAGS(["command", *words])
        return flags.load()

    yield load
  absl_flags.FLAGS.unparse_flags()


def test_a_command_without_a_model_says_what_one_is(load):
  match = "Give a model: --model=DIR, the --workdir of a run, or a transf"
  for words in ((), ("--model=",), ("--weights=x.npz",)):
    with pytest.raises(UserError, match=match):
      load(*words)


def test_a_model_is_loaded_with_the_tokenizer_beside_it(load):
  model = load(f"--model={DATA / 'hf_siglip2_tiny'}")
  tokenizer = Tokenizer(DATA / "hf_siglip2_tiny" / "tokenizer.model")
  assert model.spec["tokenizer_digest"] == tokenizer.digest
  assert model.spec["image_size"] == 32


def test_weights_and_tokenizer_reach_the_model(load):
  npz, small = DATA / "big_vision_tiny.npz", DATA / "small.model"
  with pytest.raises(UserError, match="are not siglip-b16-256's"):
    load("--model=siglip-b16-256", f"--weights={npz}")
  with pytest.raises(UserError, match="of 200 pieces; .*small.model has"):
    load(f"--model={DATA / 'hf_siglip_tiny'}", f"--tokenizer={small}")


def test_a_step_is_one_of_the_runs(load, trained):
  step = workdirs.kept_steps(trained)[0]
  assert load(f"--model={trained}", f"--step={step}").spec["step"] == step
  with pytest.raises(UserError, match=f"of step 7 in .* keeps {step}, "):
    load(f"--model={trained}", "--step=7")
