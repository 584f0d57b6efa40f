"""What a newcomer may type: each mistake is one line that says what to do."""

import re

import fakes
import pytest


@pytest.fixture(scope="module")
def wrong(place):
  """Beside a good config, things that are none."""
  wrong = place / "wrong"
  (wrong / "empty").mkdir(parents=True)
  (wrong / "file").write_text("")
  (wrong / "latin").mkdir()
  (wrong / "latin" / "a.png").write_bytes(fakes.png((0, 0, 0)))
  (wrong / "latin" / "a.txt").write_bytes(b"caf\xe9")
  for name, text in (
      ("broken", "def get_config(:"),
      ("raises", "def get_config(arg=None):\n  return 1 / 0"),
      ("imports", "import nothing_here"),
      ("nothing", "x = 1"),
      ("number", "def get_config(arg=None):\n  return 1"),
  ):
    (wrong / f"{name}.py").write_text(text)
  return wrong


@pytest.mark.parametrize(
    "flags, match",
    [
        (
            "--confg=x",
            "Unknown command line flag 'confg'. Did you mean: config",
        ),
        ("stray", "Unexpected argument 'stray'"),
        ("--workdir=", "--workdir=DIR are needed"),
        ("--eval_only=maybe", "eval_only=maybe"),
        ("--eval_only", "--eval_only needs a checkpoint"),
        # The file of the config.
        ("--config=nope.py", "can be read: .*No such file .*'nope.py'"),
        ("--config=WRONG/empty", "can be read: .*Is a directory"),
        ("--config=", "Path to config file is an empty string"),
        ("--config=WRONG/broken.py", "broken.py, line 1: SyntaxError"),
        ("--config=WRONG/raises.py", "raises.py, line 2: ZeroDivisionError"),
        ("--config=WRONG/imports.py", "imports.py, line 1: ModuleNotFound"),
        ("--config=WRONG/nothing.py", "no attribute 'get_config'"),
        ("--config=WRONG/number.py", "must return a ConfigDict; got 1"),
        ("--config=configs/emoji.py:stepz=3", "did you mean 'steps'"),
        (
            "--config=configs/emoji.py:steps=abc",
            "steps must be of type int, .*'abc'",
        ),
        ("--config=configs/emoji.py:steps=0", "config.total_steps must be"),
        # A workdir nobody can write to, not even root.
        ("--workdir=WRONG/file", "workdir must be a folder .*File exists"),
        ("--workdir=WRONG/file/run", "workdir must .*Not a directory"),
        ("--workdir=/proc/run", "workdir must .*No such file"),
        ("--workdir=gs://bucket/run", "folder of the file system; got gs://"),
        # Overrides.
        ("--config.batchsize=8", "no 'batchsize'; did you mean 'batch_size'"),
        ("--config.optim.lrr=1", "no 'lrr'; did you mean 'lr'"),
        ("--config.optim.name=sgdd", "optim.name must be .*did you mean 'sgd'"),
        (
            "--config.batch_size=abc",
            "batch_size must be of type int; got 'abc'",
        ),
        ("--config.optim.lr=fast", "lr must be of type float; got 'fast'"),
        ("--config.optim.lr=nan", "config.optim.lr must be a finite number"),
        ("--config.total_steps=0", "config.total_steps must be a positive"),
        ("--config.total_steps=-1", "config.total_steps must be a positive"),
        ("--config.log_steps=0", "config.log_steps must be a positive"),
        ("--config.ckpt.save_steps=0", "config.ckpt.save_steps must be a pos"),
        ("--config.ckpt.keep=0", "config.ckpt.keep must be a positive"),
        ("--config.seed=-1", "config.seed must be a whole number"),
        ("--config.microbatch=3", "microbatch .* divide config.batch_size = 8"),
        ("--config.data.max_replaced_share=2", r"in \[0, 1\]; got 2"),
        ("--config.loss.name=sigmoi", "config.loss.name .*got 'sigmoi'"),
        # The model.
        ("--config.model.image.width=33", "33 must be a multiple of num_heads"),
        ("--config.model.image.num_heads=0", "num_heads must be a positive"),
        ("--config.model.image.patch=7", "16 x 16 .* patches of 7"),
        ("--config.image_size=20", "20 x 20 .* patches of 8"),
        ("--config.image_size=24", r"pp must make 'image' .*24, 24.*16, 16"),
        ("--config.text_len=9", "config.text_len .* tokenize, .* 8 .*got 9"),
        (
            "--config.model.text.vocab_size=9",
            "vocab_size. needs .* 9 pieces; .*.model has",
        ),
        # Devices: one here.
        ("--config.mesh.data=3", "mesh must use every device: there are 1"),
        # Data.
        ("--config.data.path=WRONG/empty", "empty is empty: expected images"),
        ("--config.data.path=WRONG/gone", "no folder .*gone"),
        ("--config.data.path=WRONG/latin --config.data.split=all", "UTF-8"),
        ("--config.data.split=tran", "all, train or validation; got 'tran'"),
        (
            "--config=configs/folder.py:path=WRONG/empty",
            "is empty|no tokenizer",
        ),
        # Evaluations.
        ("--config.evals.colors.split=tset", "train or validation; got 'tset'"),
        ("--config.evals.colors.type=zero", "retrieval, zeroshot; got 'zero'"),
        ("--config.evals.colors.text=txt", "'txt' must be in every record"),
        ("--config.evals.colors.every_steps=0", "every_steps must be a pos"),
    ],
)
def test_mistakes_are_one_line(command, place, wrong, flags, match):
  given = flags.replace("WRONG", str(wrong)).split()
  for flag, value in (("config", "tiny.py"), ("workdir", "refused")):
    if not any(f.startswith(f"--{flag}=") for f in given):
      given.insert(0, f"--{flag}={place / value}")
  assert re.search(match, command.refuse("siglip_jax.main", *given))
  # What a refused start left there would meet the next one.
  assert not list(place.glob("refused/checkpoints/*"))
  assert not list(place.glob("refused/*.*"))
