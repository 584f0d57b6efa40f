"""URLs mean buckets, web servers and repositories of the hub."""

import pytest

from siglip_jax.data.remote import stores
from siglip_jax.data.remote.retries import Retries
from siglip_jax.errors import UserError


@pytest.mark.parametrize(
    "url, root, name",
    [
        ("gs://b/x/y z.tar", "gs://b", "x/y z.tar"),
        ("s3://b/50%25.tar", "s3://b", "50%25.tar"),
        ("https://h:81/x/y%20z.tar", "https://h:81", "x/y z.tar"),
        ("hf://datasets/a/b/c/d.tar", "H/datasets/a/b/resolve/main", "c/d.tar"),
        ("hf://a/b@v1/c.tar", "H/a/b/resolve/v1", "c.tar"),
        (
            "hf://datasets/a/b@refs/convert/parquet/c.parquet",
            "H/datasets/a/b/resolve/refs%2Fconvert%2Fparquet",
            "c.parquet",
        ),
    ],
)
def test_a_url_is_a_root_and_a_name(url, root, name, monkeypatch):
  monkeypatch.setenv("HF_ENDPOINT", "https://hub.test")
  place = stores.place(url)
  assert (place.root, place.name) == (
      root.replace("H", "https://hub.test"),
      name,
  )


def test_only_the_hub_gets_its_token(monkeypatch):
  monkeypatch.setenv("HF_TOKEN", "secret")
  headers = {}
  for scheme in ("hf", "https"):
    store = stores.connect((scheme, "https://hub.test"), Retries(tries=2))
    headers[scheme] = (store.client_options or {}).get("default_headers")
  assert headers["hf"] == {"authorization": b"Bearer secret"}
  assert not headers["https"]
  stores.connect.cache_clear()


def test_connections_without_tls_need_such_an_address(monkeypatch):
  def allowed(scheme, root):
    stores.connect.cache_clear()
    options = stores.connect((scheme, root), Retries()).client_options
    return str(options["allow_http"]).lower() == "true"

  assert not allowed("https", "https://host")
  assert allowed("http", "http://host")
  assert not allowed("s3", "s3://bucket")
  monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
  assert allowed("s3", "s3://bucket")
  stores.connect.cache_clear()


def test_a_bucket_without_a_name_is_an_error():
  with pytest.raises(UserError, match="gs:///x cannot be opened"):
    stores.store(stores.place("gs:///x"), Retries())
