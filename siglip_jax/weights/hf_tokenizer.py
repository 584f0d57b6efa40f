"""Export of a run's tokenizer and text preprocessing to transformers.

transformers has a tokenizer class for SigLIP's own text preprocessing. Any
other becomes a tokenizer.json that holds every step: lower case, normalisation,
pieces and the end of sentence.
"""

from collections.abc import Sequence
import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import normalizers
from tokenizers import processors

from siglip_jax.data import preprocess
from siglip_jax.data import tokenizer as tokenizer_lib
from siglip_jax.errors import UserError
from siglip_jax.weights import hf_pieces

# Texts that tokenizers are compared on. All of these kinds occur in practice.
PROBES = (
    "",
    " ",
    "a",
    "A photo of a cat.",
    "  two   spaces, and\ta tab \n",
    "don't (ever) stop: it's 50% off!",
    "ÀÉÎ Ünïcödé STRASSE straße",
    "e\u0301 A\u030a ﬁ ½ ２",
    "日本語のテキスト、中文。",
    "שלום עולם مرحبا",
    "👩\u200d🚀 🏳️\u200d🌈 ❤️",
    "ΟΔΥΣΣΕΥΣ İstanbul",
    "word " * 80,
)
# A sigma at the end of a word, by Unicode's rule: a cased letter precedes it,
# and none follows, ignoring marks. It needs a rule of its own, because the
# tokenizers library lowercases each character without its context.
_CASED = r"[\p{Lu}\p{Ll}\p{Lt}]"
_MARK = r"[\p{Mn}\p{Me}\p{Cf}\p{Lm}\p{Sk}'.:\u00b7\u2018\u2019\u2024\u2027]"
_AFTER = "|".join(_CASED + _MARK * n for n in range(4))
_LAST_SIGMA = f"(?<={_AFTER})Σ(?!{_MARK}*{_CASED})"


def write(folder: Path, text: preprocess.Preprocess) -> None:
  """Writes the tokenizer's files into a folder.

  Args:
    folder: an existing folder.
    text: preprocessing of texts, with a tokenizer.

  Raises:
    UserError: transformers cannot do the same preprocessing.
  """
  options = preprocess.tokenize_options(text.spec)
  *calls, _ = preprocess.parse(text.spec)
  steps = _steps(text.spec, calls, options)
  tokenizer = text.tokenizer
  assert tokenizer is not None, text.spec
  config: dict[str, Any] = {
      "model_max_length": options["max_len"],
      "model_input_names": ["input_ids"],
      "padding_side": "right",
      # "</s>" within a text is ordinary characters, not a special token.
      "split_special_tokens": True,
      "processor_class": "SiglipProcessor",
  }
  if _is_siglip(steps, options, tokenizer):
    (folder / "spiece.model").write_bytes(tokenizer.read_bytes())
    config |= {"tokenizer_class": "SiglipTokenizer", "do_lower_case": True}
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
  else:
    built = _build(steps, options, tokenizer)
    _compare(text, built)
    _save(folder / "tokenizer.json", built, tokenizer.read_bytes())
    config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "siglip_jax_text": _renamed(calls, options),
    }
    names = {
        "eos_token": built.id_to_token(tokenizer.eos_id),
        "pad_token": built.id_to_token(options["pad_value"]),
    }
  _write_json(folder / "tokenizer_config.json", config | names)
  _write_json(folder / "special_tokens_map.json", names)


def _steps(spec: str, calls: Sequence, options: dict) -> list[str]:
  """Returns the names of the steps before tokenize; lower's with its method."""
  steps = [
      f"{name}:{preprocess.arguments(name, args, kwargs)['method']}"
      if name == "lower"
      else name
      for name, args, kwargs in calls
  ]
  known = {"lower:text", "lower:characters", "lower:ascii", "strip_punctuation"}
  if set(steps) - known or options["eos"] != "sticky":
    raise UserError(
        "transformers' processor can lower, strip_punctuation and tokenize with"
        f" eos='sticky'; this model's texts take {spec!r}."
    )
  return steps


def _is_siglip(steps: list[str], options: dict, tokenizer) -> bool:
  return (
      steps == ["lower:text", "strip_punctuation"]
      and options["space"] == "marked"
      and options["pad_value"] == tokenizer.eos_id
  )


def _renamed(calls: Sequence, options: dict) -> str:
  """Returns the preprocessing string with the tokenizer file's new name."""
  renamed = options | {"model": "tokenizer.json"}
  return preprocess.render([*calls, ("tokenize", [], renamed)])


def _build(steps: list[str], options: dict, tokenizer):
  """Returns one tokenizers.Tokenizer for all steps from a text to its ids."""
  if options["space"] != "plain":
    raise UserError(
        "space='marked' is what transformers does after lower and"
        " strip_punctuation, with texts filled up by the end of sentence."
    )
  built = _pieces(tokenizer)
  own_parts, own = _parts(built), built.normalizer
  added = _normalizers(steps)
  built.normalizer = normalizers.Sequence(added)
  added_parts = _parts(built)
  if own is not None and own_parts[: len(added_parts)] == added_parts:
    built.normalizer = own  # a file written by this module starts with them
  elif own is not None:
    built.normalizer = normalizers.Sequence([*added, own])
  name = built.id_to_token(tokenizer.eos_id)
  built.post_processor = processors.TemplateProcessing(
      single=f"$A {name}", special_tokens=[(name, tokenizer.eos_id)]
  )
  built.add_special_tokens([name])
  return built


def _parts(built) -> list:
  """Returns the steps of a tokenizer's normalizer, as its file lists them."""
  spec = json.loads(built.to_str())["normalizer"]
  if spec is None:
    return []
  return spec["normalizers"] if spec["type"] == "Sequence" else [spec]


def _normalizers(steps: list[str]) -> list:
  replacements = {
      "strip_punctuation": [r"[!-/:-@\[-`{-~]", ""],
      "lower:text": [_LAST_SIGMA, "ς"],
  }
  sequence = []
  for step in steps:
    if step in replacements:
      pattern, content = replacements[step]
      sequence.append(normalizers.Replace(tokenizers.Regex(pattern), content))
    if step in ("lower:text", "lower:characters"):
      sequence.append(normalizers.Lowercase())
    if step == "lower:ascii":
      for i in range(26):
        pair = chr(ord("A") + i), chr(ord("a") + i)
        sequence.append(normalizers.Replace(*pair))
  return sequence


def _pieces(tokenizer):
  """Returns the tokenizer in the file alone, without the other steps."""
  data = tokenizer.read_bytes()
  if tokenizer_lib.file_name(data) == "tokenizer.json":
    built = tokenizers.Tokenizer.from_str(data.decode())
    built.no_padding()
    built.no_truncation()
    return built
  return hf_pieces.read(data, path=tokenizer.path)


def _compare(text: preprocess.Preprocess, built) -> None:
  """Raises UserError if transformers would tokenize a probe differently."""
  rng = np.random.default_rng(0)
  for probe in PROBES:
    expected = text({"text": probe}, rng)["text"].tolist()
    ids = built.encode(probe).ids
    if len(ids) > len(expected):
      ids = ids[: len(expected) - 1] + ids[-1:]
    if ids != expected[: len(ids)]:
      raise UserError(
          "transformers' tokenizer would read texts otherwise than"
          f" {text.spec!r}: {probe!r:.60} as {ids[:8]}, not"
          f" {expected[:8]}. It cannot be exported."
      )


def _save(path: Path, built, source: bytes) -> None:
  if tokenizer_lib.file_name(source) == "tokenizer.json":
    same = tokenizers.Tokenizer.from_str(source.decode()).to_str()
    if same == built.to_str():
      path.write_bytes(source)  # the library would round scores again
      return
  built.save(str(path))


def _write_json(path: Path, value: dict) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n")
