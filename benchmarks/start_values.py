"""Values to change the config of a run by: plausible ones, and absurd ones."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import random
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag:
  """One --config.FIELD=TEXT of a command line, and its kind for the table."""

  kind: str
  field: str
  text: str

  def __str__(self) -> str:
    return f"--config.{self.field}={self.text}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
  """A field of the config, and texts that its flag may have.

  Attributes:
    kind: kind for the table.
    name: name of the field, as in --config.NAME.
    plausible: texts that a user may mean.
    absurd: texts that a user would give by mistake.
  """

  kind: str
  name: str
  plausible: Sequence[str]
  absurd: Sequence[str]


# Texts that are a value of some type, or of none.
_ODD = (
    "None True [] {} () '' nan -inf 1e400 0x10 1_000 b'x' {1} 1j ... [[[[ { %s"
    " -0 01 1e-400 [None] {'a':1} {1:2} ('a',) 99999999999999999999999 é 💥"
    " lambda:0 __import__('os') dict() dict(a=1) dict(**{})"
).split() + ["", " ", "\n", "a" * 2000, "[" * 300]

# Field -> plausible and absurd texts, by kind. White space separates texts.
_WORDS = {
    "numbers": {
        "seed": ("1 7 123456", "-1 1.5 2147483648 abc"),
        "total_steps": ("8 12 13 14 15", "0 -3 1e3 inf 2147483648"),
        "batch_size": ("4 7 8 16 100", "0 -8 3.5 1000000000000 eight"),
        "microbatch": ("0 1 2 4 8", "-1 3 16 5.0"),
        "image_size": ("16 24 32", "0 -16 17 16.0 1000000000"),
        "text_len": ("8 16", "0 -1 8.5 1000000000"),
        "log_steps": ("1 2 3 5 100", "0 -1 0.5"),
    },
    "data": {
        "data.split": ("train validation", "tset train[:50%] train+test"),
        "data.num_threads": ("0 1 4", "-1 1.5 x"),
        "data.num_workers": ("0", "-1 None 0.5"),
        "data.cache_mb": ("0 10", "-5 nan"),
        "data.max_replaced_share": ("0 0.5 1", "2 -0.1 nan all"),
        "data.name": ("None", "emoji no_such_set"),
        "data.data_dir": ("data", "/nowhere"),
        "data.embeddings": ("None", "/nowhere"),
    },
    "model": {
        "model.image.width": ("32 64", "0 -1 33 1e2"),
        "model.image.depth": ("1 2 0", "-1 1.5 many"),
        "model.image.mlp_dim": ("64 128", "0 -64"),
        "model.image.num_heads": ("1 2 4", "0 3 -2"),
        "model.image.patch": ("4 8 16", "0 7 -8 1000"),
        "model.image.pool_type": ("map gap tok", "last mean None"),
        "model.image.posemb": ("learn sincos2d", "sin"),
        "model.image.ragged": ("True False", "maybe 2"),
        "model.image.variant": ("mu/8 Ti/16", "mu XX/8 mu/0"),
        "model.text.width": ("32 48", "0 -1"),
        "model.text.depth": ("0 1 2", "-1"),
        "model.text.num_heads": ("1 2", "0 5"),
        "model.text.vocab_size": ("400 500 10", "0 -1"),
        "model.text.pool_type": ("last first gap max map", "tok 7"),
        "model.out_dim": ("32 (None,32) (32,32) [None,32]", "0 -1 (1,2,3) 'a'"),
        "model.temperature_init": ("10 20", "0 -1 nan 1e30"),
        "model.bias_init": ("-2 -5 None", "nan 1e9 x"),
        "model.dtype": ("float32 bfloat16", "float16 int8 double"),
        "model.scan": ("true false 1", "2 yes"),
        "model.remat": ("none full dots", "some"),
        "model.attention": ("auto xla fused", "flash"),
        "model.embedded": ("False", "True"),
    },
    "loss": {
        "loss.name": (
            "ring_sigmoid sigmoid ring_softmax softmax masked_sigmoid",
            "bce_mean siglip None",
        ),
        "loss.dtype": ("bfloat16 float32 None", "float16 x"),
        "loss.block": ("4 8", "0 3 -1"),
    },
    "optim": {
        "optim.name": ("adam lion sgd adafactor", "adamw ADAM"),
        "optim.lr": ("0.001 1e-4 0 1", "-1 nan inf fast 1e30"),
        "optim.wd": ("0 0.1", "-0.1 nan"),
        "optim.clip_norm": ("None 0.1 10", "0 -1 nan"),
        "optim.max_temperature": ("None 20 100", "1 -5"),
        "optim.frozen_dtype": ("float32 bfloat16", "float8"),
        "optim.options": (
            "{'b2':0.99} {'b1':0.8} {}",
            "{'b2':2.0} {'bb':1} {'b2':'x'} [1]",
        ),
        "optim.lr_mults": (
            "[('img/.*',0.1),('.*',1.0)] [['.*',1]]",
            "[] [('x',1.0)] [('.*','a')] [('(',1.0)] 1 [1]",
        ),
        "optim.wd_mults": ("[('.*',1.0)]", "[('.*/kernel',1.0)] {}"),
        "optim.schedule": (
            "[('.*',{'decay':'none'})] [('.*',dict(decay='linear'))]"
            " [('img/.*',None),('.*',{'decay':'cosine'})]",
            "[] [('.*',None)] [('nope',None)] [('.*',{'decay':'x'})] {'a':1}"
            " [('.*',{'warmup_steps':100})] [('.*',{'warmup':1})] [('.*',)]",
        ),
        "optim.schedule[0][1].decay": ("none linear rsqrt", "up"),
        "optim.schedule[0][1].warmup_steps": ("0 1 3", "-1 99 x"),
        "optim.schedule[1][1].decay": ("", "none"),
    },
    "devices": {
        "mesh.data": ("1 -1", "0 2 -2 1.0"),
        "mesh.fsdp": ("1 -1", "2 0"),
        "mesh.tensor": ("1", "3 -1"),
        "sharding": (
            "[('.*','replicate')] [['.*','fsdp']]",
            "[] [('.*','nope')] [('x','fsdp')] 5 {'a':'fsdp'} [('.*',1)]",
        ),
    },
    "checkpoints": {
        "ckpt.save_steps": ("1 3 100", "0 -1 2.5"),
        "ckpt.keep": ("1 5", "0 -1"),
        "ckpt.keep_every": ("0 2 5", "-1 x"),
        "ckpt.best_mode": ("max min", "up"),
        "ckpt": ("{'save_steps':2,'keep':1}", "{} {'keep':1} 7 []"),
        "early_stopping": (
            "{'metric':'train/loss','patience':2} {'metric':'train/loss',"
            "'patience':1,'mode':'max','min_delta':0.5}",
            "{} {'metric':'x','patience':1} {'metric':'train/loss'} 3",
        ),
        "early_stopping.patience": ("", "1 0"),
    },
    "process": {
        "watchdog.step_seconds": ("100 1e6", "0 -1 nan soon"),
        "watchdog.peer_seconds": ("30", "0"),
        "watchdog.no_seconds": ("", "1"),
        "profile.steps": ("[] [9] (9,10)", "[0] [-1] 5 ['a'] [1.5]"),
        "wandb": ("", "{'project':''} {'project':'x','mode':'no'} {}"),
        "wandb.mode": ("", "online"),
    },
    "init": {
        "init": ("{}", "{'x':{}} [] {'img':{}} {'img':1}"),
        "init.img.path": ("/nowhere", "''"),
        "init.txt": ("{'path':'/nowhere','dont_load':['.*']}", "{'path':1}"),
    },
}


def fields(config: Mapping[str, Any], place: str) -> list[Field]:
  """Returns the fields that can be changed.

  Args:
    config: the run's config, as config.json has it.
    place: folder that exists and holds no data.
  """
  table = [
      Field(kind=kind, name=name, plausible=a.split(), absurd=b.split())
      for kind, part in _WORDS.items()
      for name, (a, b) in part.items()
  ]
  table += _strings(config, place)
  for name, section in config["evals"].items():
    table += _of_eval(name, section)
  more = str({**_any(config["evals"]), "every_steps": 3, "dataset": "more"})
  table.append(
      Field(
          kind="evals",
          name="evals.more",
          plausible=[more],
          absurd=["{}", "1", "{'type':'x'}", more.replace("type", "typ")],
      )
  )
  removed = Field(
      kind="evals", name="evals", plausible=["{}"], absurd=["[]", "{'a':1}"]
  )
  return [*table, removed]


def draw(
    source: random.Random, table: Sequence[Field], config: Mapping[str, Any]
) -> list[Flag]:
  """Returns one to three changes; in half of the cases all are plausible."""
  plausible = source.random() < 0.5
  kinds: dict[str, list[Field]] = {}
  for field in table:
    kinds.setdefault(field.kind, []).append(field)
  chosen: list[Field] = []
  for _ in range(source.choice((1, 1, 2, 3))):
    # Kinds of few fields are drawn as often as the others.
    field = source.choice(kinds[source.choice(sorted(kinds))])
    if field not in chosen:
      chosen.append(field)
  flags = [_plausible(source, field) for field in chosen]
  if not plausible:
    number = source.randrange(len(flags))
    flags[number] = _absurd(source, chosen[number], config)
  return flags


def leaves(
    section: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Yields the name and the value of each field; an empty section is one."""
  for key, value in section.items():
    if isinstance(value, Mapping) and value:
      yield from leaves(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def _plausible(source: random.Random, field: Field) -> Flag:
  texts = field.plausible or field.absurd
  return Flag(kind=field.kind, field=field.name, text=source.choice(texts))


def _absurd(
    source: random.Random, field: Field, config: Mapping[str, Any]
) -> Flag:
  """Returns a wrong value, a value of another type, or a misspelt field."""
  way = source.random()
  if way < 0.5:
    return Flag(
        kind=field.kind, field=field.name, text=source.choice(field.absurd)
    )
  name, value = source.choice(list(leaves(config)))
  if way < 0.75:
    return Flag(kind="types", field=name, text=source.choice(_ODD))
  return Flag(kind="typos", field=_misspelt(source, name), text=str(value))


def _misspelt(source: random.Random, name: str) -> str:
  """Returns the name of a field with one mistake."""
  at = source.choice([i for i, c in enumerate(name) if c.isalpha()])
  return source.choice(
      (
          name[:at] + name[at + 1 :],
          name[:at] + name[at] + name[at:],
          name[:at] + name[at].swapcase() + name[at + 1 :],
          name[:at] + "." + name[at:],
          f"{name}.",
          f".{name}",
          f"{name}.x",
          f"{name}[0]",
          f"{name}[",
          name.rpartition(".")[0] or "x",
      )
  )


def _strings(config: Mapping[str, Any], place: str) -> list[Field]:
  """Returns the fields whose texts are changes of what the config has."""
  data, pp = config["data"], config["preprocess"]
  broken = lambda text: [
      "",
      "None",
      text.rstrip(")") + "(",
      text.replace("|", "||"),
      text.replace("decode", "decod"),
      text + "|nothing()",
      text.replace("tokenize", "resize"),
      text.replace("(", "((", 1),
  ]
  others = [
      pp["image"].replace("value_range(-1,1)", "value_range(0,1)"),
      pp["image"].replace("resize", "resize_small"),
      pp["image"].replace("16", "24"),
      pp["image"].replace("|", " | "),
      pp["image"].replace(",", ", "),
  ]
  texts = [
      pp["text"].replace("lower|", ""),
      pp["text"].replace("8", "9"),
      pp["text"].replace("max_len=8", 'eos="sticky", max_len=8'),
      pp["text"].replace(", ", ","),
      pp["text"].replace('.model"', '.none"'),
  ]
  trained = [
      data["pp"].replace("decode|", "decode|flip_lr|"),
      data["pp"].replace("affine()", "affine(3)"),
      data["pp"].replace("lower|", ""),
      data["pp"].replace('"image",', ""),
      data["pp"].replace("|", " | "),
  ]
  paths = [f"{place}/nowhere", place, f"{place}/\n", "", "None", "~nobody/x"]
  fields = [
      ("data.path", [str(data.get("path"))], [*paths, f"{data.get('path')},x"]),
      ("data.pp", trained, broken(data["pp"])),
      ("preprocess.image", others, broken(pp["image"])),
      ("preprocess.text", texts, broken(pp["text"])),
  ]
  return [
      Field(
          kind="data" if name.startswith("data") else "preprocess",
          name=name,
          plausible=plausible,
          absurd=absurd,
      )
      for name, plausible, absurd in fields
  ]


def _of_eval(name: str, section: Mapping[str, Any]) -> list[Field]:
  """Returns the fields of one evaluation."""
  start = f"{section['type']}/{section['dataset']}"
  texts = {
      "split": ("train validation", "nope train[0]"),
      "text": ("text", "image nope"),
      "type": ("zeroshot retrieval loss", "zero None"),
      "every_steps": ("1 3 4", "0 -1 2.5"),
      "classes": ("['train'] []", "['nope'] train [1]"),
      "templates": ("['a~{}'] ['{}','the~{}']", "['no'] [] ['{}{}'] ['{0'] x"),
      "dataset": ("other", "a/b"),
      "gallery": ("0 3", "-1 x"),
      "batch_size": ("0 4", "1 -1"),
      "loss": ("sigmoid softmax", "ring_sigmoid"),
  }
  table = [
      Field(
          kind="evals",
          name=f"evals.{name}.{key}",
          plausible=[text.replace("~", " ") for text in a.split()],
          absurd=b.split(),
      )
      for key, (a, b) in texts.items()
  ]
  best = [f"{start}/top1", "train/loss", start]
  ckpt = Field(
      kind="checkpoints",
      name="ckpt.best",
      plausible=best,
      absurd=["nope", "zeroshot", "None", f"{start}x/top1"],
  )
  stop = Field(
      kind="checkpoints",
      name="early_stopping",
      plausible=[str({"metric": metric, "patience": 1}) for metric in best],
      absurd=[str({"metric": f"{start}x", "patience": 1})],
  )
  return [*table, ckpt, stop]


def _any(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  return dict(next(iter(sections.values()), {}))
