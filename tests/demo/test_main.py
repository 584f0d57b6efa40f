"""The page in a real browser, and what the command refuses."""

import importlib.util
import re
import shutil

from commands import free_port
import pytest

import siglip_jax
from siglip_jax.demo import __main__
from siglip_jax.demo import album as album_lib

MODULE = "siglip_jax.demo"


def _missing() -> str | None:
  """What the browser's test lacks, and how to have it."""
  for package in ("gradio", "playwright"):
    if importlib.util.find_spec(package) is None:
      return f"no {package}: pip install -e '.[browser]'"
  if shutil.which("chromium") is None:
    return "no chromium: apt install chromium"
  return None


@pytest.fixture
def page(monkeypatch):
  """A page of a headless Chromium, and the hosts it asked for anything."""
  if reason := _missing():
    pytest.skip(reason)
  from playwright import sync_api

  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=["--no-sandbox"]
    )
    page = browser.new_page()
    page.set_default_timeout(60_000)
    hosts = set()
    page.on("request", lambda r: hosts.add(re.sub(r"^\w+:/*|/.*", "", r.url)))
    yield page, hosts
    browser.close()


# Libraries of libraries; nothing here chooses how they are called.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_labels_and_search_in_a_browser(page, trained, place, tmp_path):
  page, hosts = page
  gradio = __main__._gradio()
  model = siglip_jax.load(trained)
  images = place / "images"
  album = album_lib.make(model, images)
  port = free_port()
  app = __main__.make_page(gradio, model, album)
  __main__.serve(gradio, app, port=port, allowed=[str(images)])
  try:
    with pytest.raises(siglip_jax.errors.UserError, match="is taken"):
      __main__.serve(
          gradio, __main__.make_page(gradio, model, None), port=port, allowed=[]
      )
    page.goto(f"http://{__main__.HOST}:{port}")
    # Without an image: told on the page.
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("Drop an image first").wait_for()
    # With what is none.
    (tmp_path / "bad.png").write_text("no image")
    page.set_input_files("input[type=file]", tmp_path / "bad.png")
    page.locator("img[src*='bad.png']").wait_for(state="attached")
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("cannot be read as an image: no PNG").wait_for()
    page.get_by_label("Remove Image").click()
    page.set_input_files("input[type=file]", images / "000.png")
    page.locator("img[src*='000.png']").wait_for()
    page.fill("#labels textarea, #labels input", "red, blue,red, [green]")
    page.get_by_role("button", name="Classify").click()
    page.locator("#found").get_by_text("[green]").first.wait_for()
    shown = page.inner_text("#found")
    expected = model.classify([images / "000.png"], ["red", "blue", "[green]"])
    for x in expected[0]:
      assert f"{round(100 * float(x))}%" in shown
    page.get_by_role("tab", name="Search 48 images").click()
    page.fill("#text textarea, #text input", "a red image")
    page.get_by_role("button", name="Search").click()
    page.locator("#gallery img").first.wait_for()
    assert page.locator("#gallery img").count() == 12
    best, chance = album.search("a red image", 1)[0]
    first = page.locator("#gallery img").first
    assert best.name in first.get_attribute("src")
    page.wait_for_function(
        "document.querySelector('#gallery img').naturalWidth == 16"
    )
    assert f"{chance:.1%}" in page.inner_text("#gallery")
  finally:
    app.close()
  assert hosts == {f"{__main__.HOST}:{port}"}  # nothing from anywhere else


def test_labels_are_split_and_counted_once():
  assert __main__.split_labels(" a, b c,\n a,,\nd\n") == ["a", "b c", "d"]


@pytest.mark.parametrize(
    "arguments, match",
    [
        ("", "Give a model: --model=DIR"),
        ("--model=GONE", "There is no .*gone: expected a workdir"),
        ("--model=MODEL stray", "Unexpected argument 'stray'"),
        ("--model=MODEL --port=x", "port=x"),
        ("--model=MODEL --port=99999", "port=99999"),
        ("--model=MODEL --images=GONE", "There is no folder .*gone"),
        ("--model=MODEL --images=MODEL", "has no images"),
        ("--model=MODEL --weights=x", "weights= goes with the name of a rel"),
        ("--model=MODEL --tokenizer=x", "needs no tokenizer"),
    ],
)
def test_mistakes_are_one_line(command, trained, place, arguments, match):
  if importlib.util.find_spec("gradio") is None:
    pytest.skip("no gradio: pip install -e '.[demo]'")
  arguments = arguments.replace("MODEL", str(trained))
  arguments = arguments.replace("GONE", str(place / "gone"))
  assert re.search(match, command.refuse(MODULE, *arguments.split()))


def test_without_gradio_it_says_how_to_install_it(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(siglip_jax.errors.UserError, match=r"pip install .*demo"):
    __main__.main(["demo"])
