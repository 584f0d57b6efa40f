"""python -m siglip_jax.demo --model=WORKDIR [--images=FOLDER].

Serves a web page to this machine only: drop an image and type labels, or search
a folder of images by text. The page needs no network, requests nothing from it
and sends nothing to it. Needs `pip install siglip_jax[demo]`.
"""

from collections.abc import Callable
from collections.abc import Sequence
import importlib.util
import os
import re
from typing import Any

from absl import flags

from siglip_jax import cli
from siglip_jax.demo import album as album_lib
from siglip_jax.errors import UserError
from siglip_jax.inference import flags as model_flags
from siglip_jax.inference.model import SigLIP

HOST = "127.0.0.1"
_SHOWN = 12  # images per search


def define_flags() -> None:
  """Defines the flags of the command."""
  model_flags.define()
  flags.DEFINE_string("images", None, "Folder of images to search by text.")
  flags.DEFINE_integer(
      "port", 7860, "Port of the page.", lower_bound=1, upper_bound=2**16 - 1
  )


def main(argv: Sequence[str]) -> None:
  """Serves the page until it is interrupted."""
  del argv
  _check_gradio()
  model = model_flags.load()
  folder, port = flags.FLAGS.images, flags.FLAGS.port
  album = album_lib.make(model, folder) if folder else None
  gradio = _gradio()
  page = make_page(gradio, model, album)
  serve(gradio, page, port=port, allowed=[folder] if folder else [])
  print(f"http://{HOST}:{port}", flush=True)
  page.block_thread()


def split_labels(text: str) -> list[str]:
  """Returns the labels between commas or line breaks, each once, in order."""
  return list(
      dict.fromkeys(s.strip() for s in re.split(r"[,\n]", text) if s.strip())
  )


def make_page(gradio: Any, model: SigLIP, album: album_lib.Album | None):
  """Builds the page: a tab for labels and, with an album, one to search it."""

  def classify(image: str | None, labels: str, template: str):
    if image is None:
      raise UserError("Drop an image first.")
    names = split_labels(labels)
    probabilities = model.classify([image], names, templates=[template or "{}"])
    return dict(zip(names, map(float, probabilities[0]), strict=True))

  def search(text: str):
    assert album is not None, "the tab is there only with an album"
    if not text.strip():
      raise UserError("Type what to look for.")
    return [(str(p), f"{x:.1%}") for p, x in album.search(text.strip(), _SHOWN)]

  with gradio.Blocks(title="siglip_jax", analytics_enabled=False) as page:
    with gradio.Tab("Labels"):
      _labels_tab(gradio, _with_errors(gradio, classify))
    if album is not None:
      with gradio.Tab(f"Search {len(album.paths)} images"):
        _search_tab(gradio, _with_errors(gradio, search))
  return page


def serve(gradio: Any, page: Any, *, port: int, allowed: list[str]) -> None:
  """Serves the page in the background, on the loopback address.

  Raises:
    UserError: the port is taken.
  """
  try:
    page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        allowed_paths=allowed,
        footer_links=[],
        ssr_mode=False,
        # The themes' default fonts would be downloaded.
        theme=gradio.themes.Base(
            font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),
    )
  except OSError:
    raise UserError(
        f"Port {port} of {HOST} is taken: give another with --port."
    ) from None


def _labels_tab(gradio: Any, classify: Callable) -> None:
  with gradio.Row():
    with gradio.Column():
      image = gradio.Image(
          label="Image",
          type="filepath",
          image_mode=None,  # pass the file on: the model's decoder reads it
          sources=["upload", "clipboard"],
          height=320,
      )
      # Gradio's preprocess opens the file and fails without a message.
      image.preprocess = lambda data: data.path if data else None
      labels = gradio.Textbox(
          label="Labels, separated by commas",
          value="cat, dog, car",
          elem_id="labels",
      )
      template = gradio.Textbox(
          label="Prompt: {} stands for the label", value="{}"
      )
      button = gradio.Button("Classify", variant="primary")
    output = gradio.Label(
        label="Probability of each label",
        elem_id="found",
    )
  inputs = [image, labels, template]
  button.click(classify, inputs, output)
  labels.submit(classify, inputs, output)


def _search_tab(gradio: Any, search: Callable) -> None:
  text = gradio.Textbox(label="Text", elem_id="text")
  button = gradio.Button("Search", variant="primary")
  output = gradio.Gallery(
      label="Best first",
      columns=6,
      object_fit="contain",
      height="auto",
      elem_id="gallery",
  )
  button.click(search, text, output)
  text.submit(search, text, output)


def _with_errors(gradio: Any, function: Callable) -> Callable:
  """Returns `function`, changed to show its UserErrors on the page."""

  def wrapped(*args):
    try:
      return function(*args)
    except UserError as e:
      raise gradio.Error(str(e), print_exception=False) from None

  return wrapped


def _gradio() -> Any:
  """Returns the gradio module, configured at import to send nothing."""
  os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
  os.environ["HF_HUB_OFFLINE"] = "1"
  os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
  import gradio  # pylint: disable=g-import-not-at-top

  return gradio


def _check_gradio() -> None:
  """Checks that Gradio is installed, without importing it.

  The check runs before the model is loaded, and the import takes seconds.
  """
  if importlib.util.find_spec("gradio") is None:
    raise UserError("The page needs Gradio: pip install 'siglip_jax[demo]'.")


if __name__ == "__main__":
  cli.main(main, define_flags)
